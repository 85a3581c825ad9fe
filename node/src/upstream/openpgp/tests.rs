use std::fs;
use std::process::Command;

use upswarm_protocol::time::Wall;
use upswarm_tests::openpgp::{DAY, HashAlgorithm, MADE, Manner, Signer};

use super::*;

const TEXT: &str = "Origin: Test\n- dashed\nSHA256:\n 00 1 main/Packages  \n\tend\n";
const PLAIN: &str = "Origin: Test\n- dashed\nSHA256:\n 00 1 main/Packages\n\tend\n";

fn at(seconds: u32) -> Wall {
    Wall(1000 * u64::from(seconds))
}

fn now() -> Wall {
    at(MADE + 40 * DAY)
}

fn pinned(signer: &Signer) -> Vec<Certificate> {
    certificates(signer.certificate().as_bytes()).unwrap()
}

/// What comes of a text that `by` signs for people who pin `pin`.
fn outcome(by: &Signer, pin: &Signer, manner: Manner) -> Result<String, SignatureError> {
    verify(by.clear_sign(PLAIN, manner).as_bytes(), &pinned(pin), now())
}

#[test]
fn a_text_counts_that_a_pinned_key_or_its_subkey_has_signed() {
    let signer = Signer::new(1);
    for subkey in [true, false] {
        for hash in [HashAlgorithm::Sha256, HashAlgorithm::Sha512] {
            let manner = Manner { subkey, hash, ..Manner::default() };
            assert_eq!(outcome(&signer, &signer, manner).unwrap(), PLAIN, "{manner:?}");
        }
    }
    // Blanks at the ends of lines are not signed, and are not handed out either.
    let file = signer.clear_sign(PLAIN, Manner::default()).replace("main/Packages", "main/Packages \t");
    assert_eq!(verify(file.as_bytes(), &pinned(&signer), now()).unwrap(), PLAIN);
    assert_ne!(TEXT, PLAIN);
    let windows = signer.clear_sign(PLAIN, Manner::default()).replace('\n', "\r\n");
    assert_eq!(verify(windows.as_bytes(), &pinned(&signer), now()).unwrap(), PLAIN);
}

#[test]
fn every_changed_byte_of_the_text_is_noticed() {
    let signer = Signer::new(1);
    let (file, certificates) = (signer.clear_sign(PLAIN, Manner::default()), pinned(&signer));
    let start = file.find("Origin").unwrap();
    for place in start..start + PLAIN.len() {
        let mut changed = file.clone().into_bytes();
        changed[place] ^= 0x04;
        let outcome = verify(&changed, &certificates, now());
        assert!(outcome.is_err(), "byte {place}: {outcome:?}");
    }
    let error = verify(file.replace("Test", "Best").as_bytes(), &certificates, now()).unwrap_err();
    assert!(matches!(error, SignatureError::Wrong(_)), "{error}");
}

#[test]
fn what_stands_around_the_signed_text_is_never_read() {
    let signer = Signer::new(1);
    let file = signer.clear_sign(PLAIN, Manner::default());
    for (changed, cause) in [
        (format!("Date: today\n{file}"), "does not begin"),
        (format!("{file}Date: today\n"), "follows its signature"),
        (format!("{file}{file}"), "follows its signature"),
        (file.replace("Hash: SHA256", "Date: today"), "headers"),
        (file.replace("- - dashed", "- dashed\n-----BEGIN PGP SIGNED MESSAGE-----"), "not escaped"),
        (file.replace("-----BEGIN PGP SIGNATURE-----", ""), "not escaped"),
        (file.split("-----BEGIN PGP SIGNATURE").next().unwrap().to_owned(), "ends before"),
        (file.replace("-----END PGP SIGNATURE-----", ""), "has no end"),
        (PLAIN.to_owned(), "does not begin"),
        (String::new(), "does not begin"),
    ] {
        let error = verify(changed.as_bytes(), &pinned(&signer), now()).unwrap_err().to_string();
        assert!(error.contains(cause), "{error}\n{changed}");
    }
}

#[test]
fn keys_that_are_not_pinned_count_nothing_and_are_named() {
    let (signer, stranger) = (Signer::new(1), Signer::new(2));
    let error = outcome(&stranger, &signer, Manner::default()).unwrap_err();
    assert!(matches!(error, SignatureError::UnknownKey(_)), "{error}");
    let both = format!("{}\n{}", stranger.certificate(), signer.certificate());
    assert_eq!(certificates(both.as_bytes()).unwrap().len(), 2);
    let file = signer.clear_sign(PLAIN, Manner::default());
    assert!(verify(file.as_bytes(), &certificates(both.as_bytes()).unwrap(), now()).is_ok());
    // A subkey that never agreed to be this key's.
    let mut thief = Signer::new(3);
    thief.steal_subkey(&signer);
    let error = outcome(&signer, &thief, Manner::default()).unwrap_err();
    assert!(matches!(error, SignatureError::Unfit { .. }), "{error}");
}

#[test]
fn what_was_revoked_or_has_expired_counts_nothing() {
    let good = Signer::new(1);
    type Change = fn(&mut Signer);
    type Is = fn(&SignatureError) -> bool;
    let cases: [(&str, Change, Is); 4] = [
        ("subkey revoked", |s| s.revoke_subkey(MADE + DAY), |e| matches!(e, SignatureError::Revoked(_))),
        ("key revoked", |s| s.revoke(MADE + DAY), |e| matches!(e, SignatureError::Revoked(_))),
        (
            "subkey expired",
            |s| s.bind(MADE + DAY, 35 * DAY),
            |e| matches!(e, SignatureError::Expired { what: "the subkey", .. }),
        ),
        (
            "key expired",
            |s| s.certify(MADE + DAY, 35 * DAY),
            |e| matches!(e, SignatureError::Expired { what: "the key", .. }),
        ),
    ];
    for (what, change, is) in cases {
        let mut changed = good.clone();
        change(&mut changed);
        let error = outcome(&good, &changed, Manner::default()).expect_err(what);
        assert!(is(&error), "{what}: {error}");
    }
    // A later signature of the key over itself prolongs it.
    let mut prolonged = good.clone();
    prolonged.certify(MADE + DAY, 35 * DAY);
    prolonged.certify(MADE + 2 * DAY, 400 * DAY);
    assert!(outcome(&good, &prolonged, Manner::default()).is_ok());
    let until = pinned(&prolonged)[0].good_until(now()).unwrap().unwrap();
    assert_eq!(until, at(MADE + 400 * DAY));
    assert_eq!(pinned(&good)[0].good_until(now()).unwrap(), None);
    let mut revoked = good.clone();
    revoked.revoke(MADE + DAY);
    assert!(matches!(pinned(&revoked)[0].good_until(now()), Err(SignatureError::Revoked(_))));
}

#[test]
fn a_signature_is_of_its_time() {
    let signer = Signer::new(1);
    let manner = Manner::default();
    let of = |manner| outcome(&signer, &signer, manner).unwrap_err();
    assert!(matches!(of(Manner { at: MADE + 41 * DAY, ..manner }), SignatureError::Early { .. }));
    assert!(matches!(of(Manner { at: MADE - DAY, ..manner }), SignatureError::Unfit { .. }));
    assert!(matches!(of(Manner { life: DAY, ..manner }), SignatureError::Expired { what: "it", .. }));
    assert!(outcome(&signer, &signer, Manner { life: 20 * DAY, ..manner }).is_ok());
}

#[test]
fn damaged_certificates_are_told() {
    for text in ["", "nonsense", "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nAAAA\n-----END PGP PUBLIC KEY BLOCK-----\n"] {
        assert!(certificates(text.as_bytes()).is_err(), "{text:?}");
    }
    let armor = Signer::new(1).certificate();
    let certificate = &certificates(armor.as_bytes()).unwrap()[0];
    assert_eq!(
        certificates(certificate.to_armor().unwrap().as_bytes()).unwrap()[0].fingerprint(),
        certificate.fingerprint()
    );
    assert!(certificate.to_string().contains("Test 1"), "{certificate}");
}

/// The other implementation that upstreams use. Where it is not installed, there is nothing to compare with.
#[test]
fn what_gpg_signs_counts() {
    let home = tempfile::Builder::new().prefix("gpg").tempdir_in("/tmp").unwrap();
    let gpg = |args: &[&str]| {
        let base =
            ["--homedir", home.path().to_str().unwrap(), "--batch", "--pinentry-mode", "loopback", "--passphrase", ""];
        Command::new("gpg").args(base).args(args).output()
    };
    let Ok(made) = gpg(&["--quick-generate-key", "Upstream <up@example.org>", "rsa2048", "sign", "1y"]) else { return };
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let text = home.path().join("Release");
    fs::write(&text, PLAIN).unwrap();
    let signed = gpg(&["--clearsign", "--output", "-", text.to_str().unwrap()]).unwrap().stdout;
    let keyring = gpg(&["--export"]).unwrap().stdout;
    let certificates = certificates(&keyring).unwrap();
    let now = crate::clock::wall();
    assert_eq!(verify(&signed, &certificates, now).unwrap(), PLAIN);
    let year = certificates[0].good_until(now).unwrap().unwrap().since(now).as_secs() / 86_400;
    assert!((360..=366).contains(&year), "{year} days");
    let later = Wall(now.0 + 400 * 86_400_000);
    assert!(matches!(verify(&signed, &certificates, later), Err(SignatureError::Expired { .. })));
    // SHA-1 counts neither under the text nor in the certificate.
    let weak = gpg(&["--digest-algo", "SHA1", "--clearsign", "--output", "-", text.to_str().unwrap()]).unwrap();
    assert!(weak.status.success(), "{}", String::from_utf8_lossy(&weak.stderr));
    let error = verify(&weak.stdout, &certificates, now).unwrap_err();
    assert!(matches!(error, SignatureError::Unfit { what, .. } if what.contains("weak hash")), "{error}");
    let old = ["--cert-digest-algo", "SHA1", "--quick-generate-key", "Old <old@example.org>", "rsa2048", "sign", "1y"];
    assert!(gpg(&old).unwrap().status.success());
    let old = super::certificates(&gpg(&["--export", "old@example.org"]).unwrap().stdout).unwrap();
    let error = old[0].good_until(now).unwrap_err();
    assert!(matches!(error, SignatureError::Unfit { what, .. } if what.contains("SHA-1")), "{error}");
    let _ = Command::new("gpgconf").arg("--homedir").arg(home.path()).args(["--kill", "gpg-agent"]).output();
}

//! The root of trust by the admin's verbs, on a coordinator that runs: renewed, rotated, signed elsewhere, and after a restart.

use upswarm_protocol::catalog::Certificate;

use super::*;

async fn root(bench: &Bench, args: &[&str]) -> Result<(), CliError> {
    bench.verb(&[&["root"], args, &["--yes"]].concat()).await
}

fn version(bench: &Bench) -> u64 {
    Directory::new(&bench.data()).newest_root().unwrap().0.version
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_renews_the_machines_that_were_let_in_and_survives_a_restart() {
    let mut bench = Bench::start().await;
    let mut machine = Machine::joined(&bench, "office").await;
    let reason = refused(root(&bench, &["renew", "--for", "30d"]).await);
    assert!(reason.contains("--for 730d"), "{reason}");
    root(&bench, &["renew"]).await.unwrap();
    let reason = refused(root(&bench, &["rotate", "online"]).await);
    assert!(reason.contains("standby-keys"), "{reason}");
    bench.verb(&["coordinator", "standby-keys"]).await.unwrap();
    root(&bench, &["rotate", "online"]).await.unwrap();
    assert_eq!(version(&bench), 3);
    let head = machine
        .hear(|message| match message {
            Message::Head(head) => Some(head),
            _ => None,
        })
        .await;
    assert!(!head.is_empty());
    machine.say(&Message::Renew).await;
    let certificate = machine
        .hear(|message| match message {
            Message::Renewed { certificate } => Some(certificate),
            _ => None,
        })
        .await;
    let directory = Directory::new(&bench.data());
    let (today, hash) = directory.newest_root().unwrap();
    let opened: Certificate = envelope::open(&certificate, Kind::Certificate, Role::Online, &today.online).unwrap();
    assert_eq!(opened.device.0, machine.key.verifying_key().to_bytes());
    // Every root is there, by version and by the hash that an old token names.
    let chain = directory.chain(3).unwrap();
    for (at, bytes) in chain.iter().enumerate() {
        for path in [format!("/root/{}", at + 1), format!("/doc/{}", DocHash::of(bytes))] {
            let answer = bench.ask(Method::GET, &path).send().await.unwrap();
            assert_eq!(
                (answer.status(), answer.bytes().await.unwrap().to_vec()),
                (StatusCode::OK, bytes.clone()),
                "{path}"
            );
        }
    }
    machine.host.stop().await;
    bench.stop().await;
    // The removed key leaves with the next one that is made.
    bench.verb(&["coordinator", "standby-keys"]).await.unwrap();
    let held: Vec<_> = directory.online_keys().unwrap().iter().map(keys::public).collect();
    assert_eq!((held.len(), held.contains(&today.online.keys[0].key)), (2, true));
    bench.run().await;
    assert_eq!(bench.client().roots().await.unwrap().standby.len(), 1);
    assert_eq!(directory.newest_root().unwrap().1, hash);
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_exported_is_signed_without_the_coordinator_and_handed_in() {
    let mut bench = Bench::start().await;
    let machine = Machine::joined(&bench, "office").await;
    bench.write("tool.bin", b"tool");
    let file = bench.write("tool.toml", RELEASE.as_bytes());
    let at = |name: &str| bench.dir.path().join(name).display().to_string();
    let stick = at("stick");
    // The keys go to a place of their own; with them goes what they know.
    std::fs::create_dir(&stick).unwrap();
    for name in ["anchor.json", "publisher-1.key", "approver-1.key", "root-1.key"] {
        std::fs::rename(bench.data().join("keys").join(name), Path::new(&stick).join(name)).unwrap();
    }
    let sign = async |request: String| {
        let keys = stick.clone();
        let work = move || cli::try_run(&["sign", &request, "--keys-dir", &keys, "--yes"]);
        tokio::task::spawn_blocking(work).await.unwrap()
    };
    let (release, approval, renewal) = (at("release"), at("approval"), at("renewal"));
    bench.verb(&["publish", &file, "--export", &release]).await.unwrap();
    let reason = refused(bench.verb(&["submit", &release]).await);
    assert!(reason.contains("not signed yet"), "{reason}");
    sign(release.clone()).await.unwrap();
    bench.verb(&["submit", &format!("{release}.signed")]).await.unwrap();
    let approve = ["approve", "org.example.tool@1", "--group", "office", "--export", &approval];
    bench.verb(&approve).await.unwrap();
    assert!(bench.client().catalog().await.unwrap().approvals.is_empty(), "nothing is signed yet");

    // Swapped on its way: another group, another action, and a release that this publisher never signed.
    let text = std::fs::read_to_string(&approval).unwrap();
    let request: serde_json::Value = serde_json::from_str(&text).unwrap();
    let tamper = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut swapped = request.clone();
        change(&mut swapped["asked"]["approval"]);
        std::fs::write(at("swapped"), swapped.to_string()).unwrap();
    };
    tamper(&|asked| asked["draft"]["release"] = "org.example.other@1".into());
    assert!(refused(sign(at("swapped")).await).contains("org.example.other@1 was asked for"));
    tamper(&|asked| asked["draft"]["intent"] = serde_json::json!({ "decline": { "note": "" } }));
    assert!(refused(sign(at("swapped")).await).contains("asked for: None"));
    tamper(&|asked| {
        let mut bytes = hex::decode(asked["request"]["release"].as_str().unwrap()).unwrap();
        bytes[40] ^= 1;
        asked["request"]["release"] = hex::encode(bytes).into();
    });
    assert!(refused(sign(at("swapped")).await).contains("the release's document"));

    sign(approval.clone()).await.unwrap();
    bench.verb(&["submit", &format!("{approval}.signed")]).await.unwrap();
    assert_eq!(bench.client().catalog().await.unwrap().approvals.len(), 1);
    root(&bench, &["renew", "--export", &renewal]).await.unwrap();
    assert_eq!(version(&bench), 1);
    sign(renewal.clone()).await.unwrap();
    bench.verb(&["submit", &format!("{renewal}.signed")]).await.unwrap();
    assert_eq!(version(&bench), 2);
    bench.verb(&["root", "show"]).await.unwrap();
    machine.host.stop().await;
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_are_listed_and_taken_back_and_a_device_is_let_in_again() {
    let mut bench = Bench::start().await;
    let machine = Machine::joined(&bench, "office").await;
    let request =
        InviteRequest { group: "office".into(), site: "berlin".into(), ttl_s: 600, uses: 5, addresses: Vec::new() };
    let open = bench.client().invite(&request).await.unwrap().token;
    let tokens = bench.client().invites().await.unwrap().tokens;
    let used: Vec<_> = tokens.iter().map(|token| (token.spent, token.uses, token.over)).collect();
    assert!(used.contains(&(1, 1, false)) && used.contains(&(0, 5, false)), "{used:?}");
    bench.verb(&["token", "list"]).await.unwrap();
    bench.verb(&["token", "revoke", &open]).await.unwrap();
    let reason = refused(bench.verb(&["token", "revoke", &open]).await);
    assert!(reason.contains("no token is named"), "{reason}");
    assert_eq!(bench.client().invites().await.unwrap().tokens.len(), 1);
    let key = hex::encode(machine.key.verifying_key().to_bytes());
    let reason = refused(bench.verb(&["device", "readmit", &key[..12]]).await);
    assert!(reason.contains("not shut out"), "{reason}");
    bench.verb(&["device", "revoke", &key[..12]]).await.unwrap();
    bench.verb(&["device", "readmit", &key[..12]]).await.unwrap();
    assert!(bench.status().await.devices.iter().all(|device| !device.revoked));
    machine.host.stop().await;
    bench.stop().await;
}

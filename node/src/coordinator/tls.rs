//! The admin door's TLS key: made once, and pinned by whoever logs in from elsewhere. Owns the key's format and both sides of the
//! check; no certificate authority is asked.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use anyhow::{Context, anyhow};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, ServerConfig, SignatureScheme};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio_rustls::TlsAcceptor;
use zeroize::Zeroizing;

/// The name in the certificate; nobody checks it, the key is what counts.
const NAME: &str = "upswarm-coordinator";
/// The most bytes of the two parts of the key's file.
const MAX_PART: usize = 64 << 10;

/// SHA-256 of the admin door's certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Fingerprint([u8; 32]);

impl Fingerprint {
    fn of(certificate: &CertificateDer<'_>) -> Self {
        Self(Sha256::digest(certificate.as_ref()).into())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl FromStr for Fingerprint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let plain: String = text.chars().filter(|c| *c != ':').collect();
        let mut bytes = [0; 32];
        hex::decode_to_slice(&plain, &mut bytes)
            .map_err(|_| format!("{text:?} is no key: `coordinator run` prints it, 64 digits from 0 to f"))?;
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for Fingerprint {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Fingerprint> for String {
    fn from(fingerprint: Fingerprint) -> Self {
        fingerprint.to_string()
    }
}

/// A new key with its certificate, as it is kept: length of the certificate (u32), the certificate, the key in PKCS #8.
pub(super) fn make() -> anyhow::Result<Zeroizing<Vec<u8>>> {
    let made = rcgen::generate_simple_self_signed([NAME.to_owned()]).context("making the admin door's key")?;
    let (certificate, key) = (made.cert.der().to_vec(), Zeroizing::new(made.key_pair.serialize_der()));
    let len = u32::try_from(certificate.len()).context("the certificate")?;
    Ok(Zeroizing::new([&len.to_le_bytes()[..], &certificate, &key].concat()))
}

/// The server's side, with a key that [`make`] has made.
pub(super) fn acceptor(kept: &[u8]) -> anyhow::Result<(TlsAcceptor, Fingerprint)> {
    let damaged = "the admin door's key is damaged; remove keys/admin-tls, and log in anew";
    let (certificate, key) = split(kept).context(damaged)?;
    let certificate = CertificateDer::from(certificate);
    let fingerprint = Fingerprint::of(&certificate);
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.to_vec()));
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .and_then(|config| config.with_no_client_auth().with_single_cert(vec![certificate], key))
        .context("the admin door's key")?;
    Ok((TlsAcceptor::from(Arc::new(config)), fingerprint))
}

/// The client's side: whoever shows another certificate is not talked to.
pub(crate) fn pinned(fingerprint: Fingerprint) -> anyhow::Result<ClientConfig> {
    let provider = provider();
    let algorithms = provider.signature_verification_algorithms;
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| anyhow!("TLS: {error}"))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Pinned { fingerprint, algorithms }))
        .with_no_client_auth();
    Ok(config)
}

fn split(bytes: &[u8]) -> Option<(Vec<u8>, Zeroizing<Vec<u8>>)> {
    let (len, rest) = bytes.split_first_chunk::<4>()?;
    let (certificate, key) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
    (certificate.len() <= MAX_PART && key.len() <= MAX_PART)
        .then(|| (certificate.to_vec(), Zeroizing::new(key.to_vec())))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Believes one certificate, whoever signed it and whatever it says.
#[derive(Debug)]
struct Pinned {
    fingerprint: Fingerprint,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let shown = Fingerprint::of(certificate);
        if shown == self.fingerprint {
            return Ok(ServerCertVerified::assertion());
        }
        Err(rustls::Error::General(format!(
            "the coordinator shows the key {shown}, not {}; if it was set up anew, log in again: upswarm login",
            self.fingerprint
        )))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

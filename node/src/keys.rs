//! The device's key on disk.

use std::path::Path;

use anyhow::{Context as _, bail};
use ed25519_dalek::SigningKey;
use zeroize::Zeroizing;

use crate::sys;

/// Reads the key that `create_device_key` wrote.
pub(crate) fn read_device_key(path: &Path) -> anyhow::Result<SigningKey> {
    let bytes = Zeroizing::new(std::fs::read(path).with_context(|| {
        format!("cannot read the device key {}; join first: upswarm node join TOKEN --data-dir ...", path.display())
    })?);
    let Ok(seed) = <&[u8; 32]>::try_from(bytes.as_slice()) else {
        bail!("{} holds {} bytes instead of 32; join again with a new token", path.display(), bytes.len());
    };
    Ok(SigningKey::from_bytes(seed))
}

/// Makes a key that only this user can read. A key that is already there is kept: its device may be known by it.
pub(crate) fn create_device_key(path: &Path) -> anyhow::Result<SigningKey> {
    if path.exists() {
        return read_device_key(path);
    }
    let mut seed = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *seed).map_err(|error| anyhow::anyhow!("the system gives no randomness: {error}"))?;
    sys::write_private(path, &*seed).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(SigningKey::from_bytes(&seed))
}

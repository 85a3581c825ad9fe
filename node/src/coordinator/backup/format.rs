//! The file of a backup: one header, then files one after another, each with its checksum, then an end that vouches for the whole.
//!
//! ```text
//! backup  = "UPBACKUP" version(2 bytes) length(4) header(JSON) record* end
//! record  = kind(1) length(2) path length(8) bytes check(32)
//! end     = 0 records(8) check(32)
//! ```
//! Kind 1 is a file, kind 2 the encrypted keys, with an empty path, which come last. Lengths are little-endian. The check of a record is
//! the BLAKE3 of all of it before the check; that of the end, of the whole file before it. A file without an end was cut.
//!
//! These checks show damage alone: whoever writes the medium can compute them anew. What shows that a file was changed is inside what the
//! passphrase seals, the BLAKE3 of everything before the keys; of a file without keys, its last check, kept elsewhere.

use std::io::{self, Read, Write};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

use super::paths::is_path;

const MAGIC: &[u8; 8] = b"UPBACKUP";
const VERSION: u16 = 1;
const MAX_HEADER: u32 = 64 << 10;
const MAX_SECRETS: u64 = 4 << 20;
const FILE: u8 = 1;
const SECRETS: u8 = 2;
const END: u8 = 0;

/// What a backup is of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Header {
    /// Of upswarm, that made it.
    pub(crate) program: String,
    /// RFC 3339, by the coordinator's clock.
    pub(crate) made: String,
    /// Of the newest signed index; 0 before the first.
    pub(crate) index_version: u64,
    /// Of the newest root, and its hash.
    pub(crate) root_version: u64,
    pub(crate) root: String,
    /// Entries of the log of decisions.
    pub(crate) decisions: u64,
    /// The database of the fleet's state and history, where that is not in the backup: without its password.
    #[serde(default)]
    pub(crate) database: Option<String>,
    /// Whether private keys are in it, encrypted.
    pub(crate) keys: bool,
    /// Whether payloads are in it.
    pub(crate) payloads: bool,
}

/// Writes a backup.
pub(crate) struct Writer<W> {
    to: W,
    whole: blake3::Hasher,
    record: blake3::Hasher,
    records: u64,
}

impl<W: Write> Writer<W> {
    pub(crate) fn begin(to: W, header: &Header) -> io::Result<Self> {
        let mut writer = Self { to, whole: blake3::Hasher::new(), record: blake3::Hasher::new(), records: 0 };
        let header = serde_json::to_vec(header).map_err(io::Error::other)?;
        writer.put(MAGIC)?;
        writer.put(&VERSION.to_le_bytes())?;
        writer.put(&(header.len() as u32).to_le_bytes())?;
        writer.put(&header)?;
        Ok(writer)
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.whole.update(bytes);
        self.record.update(bytes);
        self.to.write_all(bytes)
    }

    fn begin_record(&mut self, kind: u8, path: &str, len: u64) -> io::Result<()> {
        self.record.reset();
        let path_len = u16::try_from(path.len()).map_err(|_| io::Error::other("a path is too long"))?;
        self.put(&[kind])?;
        self.put(&path_len.to_le_bytes())?;
        self.put(path.as_bytes())?;
        self.put(&len.to_le_bytes())
    }

    fn end_record(&mut self) -> io::Result<()> {
        let check = *self.record.finalize().as_bytes();
        self.records += 1;
        self.put(&check)
    }

    /// The first `len` bytes of a file.
    pub(crate) fn file(
        &mut self,
        path: &str,
        mut from: impl Read,
        len: u64,
        mut moved: impl FnMut(u64),
    ) -> io::Result<()> {
        self.begin_record(FILE, path, len)?;
        let mut left = len;
        let mut piece = vec![0; 256 << 10];
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(piece.len());
            let read = from.read(&mut piece[..most])?;
            if read == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("{path} has become shorter")));
            }
            self.put(&piece[..read])?;
            left -= read as u64;
            moved(read as u64);
        }
        self.end_record()
    }

    /// The hash of all that was written so far.
    pub(crate) fn so_far(&self) -> blake3::Hash {
        self.whole.finalize()
    }

    /// The encrypted keys, behind which no other record comes.
    pub(crate) fn secrets(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.begin_record(SECRETS, "", bytes.len() as u64)?;
        self.put(bytes)?;
        self.end_record()
    }

    /// Says that all has come. Returns the hash of the whole file, its last check left out.
    pub(crate) fn finish(mut self) -> io::Result<blake3::Hash> {
        let records = self.records;
        self.put(&[END])?;
        self.put(&records.to_le_bytes())?;
        let check = self.whole.finalize();
        self.put(check.as_bytes())?;
        self.to.flush()?;
        Ok(check)
    }
}

/// Where the files of a backup go.
pub(crate) trait Sink {
    /// A file begins; its bytes follow.
    fn file(&mut self, path: &str, len: u64) -> anyhow::Result<()>;
    /// More bytes of it.
    fn bytes(&mut self, bytes: &[u8]) -> anyhow::Result<()>;
    /// It is whole, and is what was backed up.
    fn whole(&mut self) -> anyhow::Result<()>;
    /// The encrypted keys, and the hash of everything before them.
    fn secrets(&mut self, bytes: &[u8], before: blake3::Hash) -> anyhow::Result<()>;
}

struct Reader<R> {
    from: R,
    whole: blake3::Hasher,
    record: blake3::Hasher,
}

impl<R: Read> Reader<R> {
    fn take(&mut self, bytes: &mut [u8]) -> anyhow::Result<()> {
        self.from.read_exact(bytes).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => {
                anyhow::anyhow!("the backup ends before its end: it was cut, or never finished; take another one")
            }
            _ => anyhow::Error::new(error).context("reading the backup"),
        })?;
        self.whole.update(bytes);
        self.record.update(bytes);
        Ok(())
    }

    fn array<const N: usize>(&mut self) -> anyhow::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.take(&mut bytes)?;
        Ok(bytes)
    }

    fn check(&mut self, path: &str) -> anyhow::Result<()> {
        let wanted = *self.record.finalize().as_bytes();
        if self.array::<32>()? != wanted {
            bail!("{path} in the backup is damaged: its checksum is another; take another backup");
        }
        Ok(())
    }
}

/// Reads the beginning of a backup.
pub(crate) fn header(from: &mut impl Read) -> anyhow::Result<Header> {
    let mut reader = Reader { from, whole: blake3::Hasher::new(), record: blake3::Hasher::new() };
    read_header(&mut reader)
}

fn read_header<R: Read>(reader: &mut Reader<R>) -> anyhow::Result<Header> {
    let begin = reader.array::<8>().context("this is no backup of a coordinator")?;
    if begin != *MAGIC {
        bail!("this is no backup of a coordinator");
    }
    let version = u16::from_le_bytes(reader.array()?);
    if version != VERSION {
        bail!(
            "the backup has the format {version}, and this program knows {VERSION}: restore it with the program that made it"
        );
    }
    let len = u32::from_le_bytes(reader.array()?);
    if len > MAX_HEADER {
        bail!("the header of the backup is damaged");
    }
    let mut header = vec![0; len as usize];
    reader.take(&mut header)?;
    serde_json::from_slice(&header).context("the header of the backup is damaged")
}

/// Reads a whole backup into a sink. Nothing counts before this has returned well. Returns the hash of the whole file too.
pub(crate) fn read(from: impl Read, to: &mut impl Sink) -> anyhow::Result<(Header, blake3::Hash)> {
    let mut reader = Reader { from, whole: blake3::Hasher::new(), record: blake3::Hasher::new() };
    let header = read_header(&mut reader)?;
    let mut piece = vec![0; 256 << 10];
    let (mut records, mut sealed) = (0u64, false);
    loop {
        reader.record.reset();
        let before = reader.whole.finalize();
        let [kind] = reader.array()?;
        if kind == END {
            break;
        }
        if sealed {
            bail!("something follows the keys of the backup, for which they do not vouch: it was changed");
        }
        let len = u16::from_le_bytes(reader.array()?);
        let mut path = vec![0; len.into()];
        reader.take(&mut path)?;
        let path = String::from_utf8(path).context("a path in the backup is damaged")?;
        let len = u64::from_le_bytes(reader.array()?);
        match kind {
            FILE if is_path(&path) => {
                to.file(&path, len)?;
                let mut left = len;
                while left > 0 {
                    let most = usize::try_from(left).unwrap_or(usize::MAX).min(piece.len());
                    reader.take(&mut piece[..most])?;
                    to.bytes(&piece[..most])?;
                    left -= most as u64;
                }
                reader.check(&path)?;
                to.whole()?;
            }
            SECRETS if path.is_empty() && len <= MAX_SECRETS => {
                let mut bytes = vec![0; usize::try_from(len)?];
                reader.take(&mut bytes)?;
                reader.check("what holds the keys")?;
                to.secrets(&bytes, before)?;
                sealed = true;
            }
            _ => bail!("the backup is damaged: it names {path:?}, which no backup holds"),
        }
        records += 1;
    }
    if u64::from_le_bytes(reader.array()?) != records {
        bail!("the backup is damaged: some of its files are not there");
    }
    let wanted = reader.whole.finalize();
    if reader.array::<32>()? != *wanted.as_bytes() {
        bail!("the backup is damaged: its checksum is another; take another one");
    }
    if reader.from.read(&mut [0])? != 0 {
        bail!("something follows the end of the backup: it was changed");
    }
    Ok((header, wanted))
}

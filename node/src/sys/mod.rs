//! The operating system: the only part of this crate that names one, beside the package managers in `installer`. Everything
//! else asks here by what it needs (replace a file, run a program, be told to stop) and decides nothing by the system's name.

#[cfg(unix)]
mod unix;

#[cfg(unix)]
pub(crate) use unix::*;

//! The node's mind.

mod io;

pub use io::{
    Detection, FetchError, FetchFrom, FetchId, Input, InstallOutcome, Output, Record, ServeWhat, StoreError, Verdict,
};

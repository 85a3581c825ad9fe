//! The signed documents: what the admin says, in the form in which it travels.
//!
//! Wire types: plain data with bounds. [`crate::trust`] decides which of them to believe.

mod approval;
mod certificate;
mod head;
mod index;
mod release;
mod root;

pub use approval::{Action, ActiveHours, Approval, Deferral, MinuteOfDay, Ring, RingPlan, Schedule, Weekdays, Window};
pub use certificate::{Certificate, NodeRole};
pub use head::Head;
pub use index::{DocEntry, Hold, Index};
pub use release::{
    Applicability, Classification, Detect, ExitMeaning, ExitRule, FilePlacement, PackageKind, Patch, Payload, Platform,
    Recipe, Release, RestartPolicy, Severity,
};
pub use root::{GroupRule, Keys, PublisherRule, Root};

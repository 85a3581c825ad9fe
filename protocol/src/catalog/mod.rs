//! The signed documents: what the admin says, in the form in which it travels.
//!
//! Wire types: plain data with bounds. [`crate::trust`] decides which of them to believe.

mod approval;
mod apt;
mod assignment;
mod audit;
mod certificate;
mod group;
mod head;
mod index;
pub mod page;
mod placeholder;
mod release;
mod root;
mod rule;
pub mod walk;

pub use approval::{
    Action, ActiveHours, Approval, Deferral, FetchAhead, Filtered, MinuteOfDay, Ring, RingPlan, Schedule, Weekdays,
    Window,
};
pub use apt::{APT_PREFIX, AptIndex, AptPackage, AptRecipe, Standing, WhenAbsent};
pub use assignment::Assignment;
pub use audit::{AUDIT_MAGIC, AuditBreak, AuditChain, AuditEnd, AuditHead, MAX_AUDIT_ENTRY, MAX_AUDIT_LINE};
pub use certificate::{Certificate, NodeRole};
pub use group::{DeviceList, GroupDocument, ListRoot, ListTree, ListWay, MAX_LISTED, MAX_RULE, MAX_WAYS, Members};
pub use head::Head;
pub use index::{Hold, Index};
pub use page::{DocEntry, DocRef, GroupEntry, Node, Page};
pub use placeholder::{BadPlaceholder, Piece, pieces};
pub use release::{
    Applicability, Classification, Detect, ExitMeaning, ExitRule, FilePlacement, Naming, PackageKind, Patch, Payload,
    Platform, Recipe, Release, RestartPolicy, Severity, naming,
};
pub use root::{GroupRule, PublisherRule, Root, UpstreamRule};
pub use rule::{ApprovalRule, RuledApproval};

pub use crate::keyring::{HeldKey, Keys};

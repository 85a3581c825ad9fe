//! The laboratory of the end-to-end tests: an office network made of network namespaces, and real processes in it.
//!
//! ```text
//!   wan 10.78.0.1 (coordinator, origin)
//!    | 10.78.S.1 -- 100 Mbit/s down, 20 up -- 10.78.S.2
//!   router of site S 10.77.S.1, bridge
//!    |-- 1 Gbit/s -- host 10.77.S.11
//!    |-- 1 Gbit/s -- host 10.77.S.12 ...
//! ```
//!
//! Nothing here touches the machine's own network: links are made between namespaces. Whatever a lab has made goes away with
//! it; what a killed run has left behind, the next one removes. Labs of one machine take turns.

pub mod browser;
pub mod clock;
pub mod fleet;
pub mod lab;
pub mod mirror;
pub mod office;
pub mod openpgp;
pub mod origin;
pub mod packages;
pub mod process;
pub mod program;
pub mod repository;
pub mod vendor;
pub mod wait;
pub mod watch;

//! The pure core of upswarm: wire and catalog types, signatures, and sans-IO state machines.
//!
//! Nothing here reads a clock, a random source, a disk or a socket: time and seeds are handed in, bytes come as inputs,
//! orders leave as outputs. So the code that ships is the code that is simulated.

pub mod ids;
pub mod time;
pub mod units;

pub mod codec;
pub mod keyring;

pub mod envelope;
pub mod signature_cache;

pub mod catalog;
pub mod chunk;
pub mod report;
pub mod wire;

pub mod frame_batch;

pub mod trust;

pub mod version;

pub mod inventory;

pub mod evaluate;
pub mod schedule;

pub mod lease;
pub mod membership;
pub mod swarm;

mod rng;

pub mod coordinator;
pub mod node;

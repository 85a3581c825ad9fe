//! The HTTP face: an origin for everyone, and behind a door of its own the admin API for who shows the token. Owns routes, limits
//! and encodings; what is asked is answered by the use-cases.

mod answers;
pub(crate) mod frames;
mod refused;

mod repositories;
pub(crate) mod shared;

mod api;
mod frame_posts;
mod origin;
mod reading;
mod reports;

pub(crate) mod server;

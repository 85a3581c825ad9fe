//! The `upswarm` program: office node, branch cache, coordinator and command line.

mod agent;
mod api;
mod apt_setup;
mod background;
mod byte_range;
mod cli;
mod clock;
mod config;
mod console;
mod coordinator;
mod door;
mod encrypt;
mod error;
mod installer;
mod inventory;
mod keys;
mod limiter;
mod local_api;
mod machine;
mod net;
mod privileged;
mod release_file;
mod signing;
mod sys;
mod text;
mod units;
mod update_point;
mod upstream;
mod web;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}

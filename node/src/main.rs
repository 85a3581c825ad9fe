//! The `upswarm` program: office node, branch cache, coordinator and command line.

mod cli;
mod config;
mod coordinator;
mod driver;
mod host;
mod installer;
mod journal;
mod limiter;
mod origin;
mod release_file;
mod seal;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}

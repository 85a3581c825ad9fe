//! Tells the program when it is built: `SOURCE_DATE_EPOCH` where the build is to be reproducible, else now.

use std::time::{SystemTime, UNIX_EPOCH};

fn main() {
    println!("cargo:rerun-if-env-changed=SOURCE_DATE_EPOCH");
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=src");
    let seconds = match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(given) => given.trim().parse::<u64>().expect("SOURCE_DATE_EPOCH is a number of seconds"),
        Err(_) => SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock that is right").as_secs(),
    };
    println!("cargo:rustc-env=UPSWARM_BUILD_TIME={seconds}");
}

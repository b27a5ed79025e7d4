//! The version of rust-postgres that Cargo chose, for the program to print.

use std::fs;

fn main() {
    let lock = fs::read_to_string("Cargo.lock").expect("Cargo.lock is written before this runs");
    let package = lock
        .split("[[package]]")
        .find(|text| text.contains("name = \"postgres\"\n"));
    let version = package
        .and_then(|text| text.split('"').nth(3))
        .expect("postgres is locked");
    println!("cargo::rustc-env=DRIVER_VERSION={version}");
    println!("cargo::rerun-if-changed=Cargo.lock");
}

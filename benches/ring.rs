//! Ring lookups and builds.
fn main() {}

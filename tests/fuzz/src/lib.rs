//! The files under test, by path, under the name that they have at home.

extern crate self as doorward;

pub mod gateway;
#[path = "../../../src/model/mod.rs"]
pub mod model;
pub mod targets;

//! One host, end to end: real daemons, real kernel, real kubectl.
//!
//! Needs root. Every test has a cluster of its own in a network namespace of its own and proves at its end that nothing is left.
#![forbid(unsafe_code)]

mod cli;
mod examples;
mod faults;
mod images;
mod pods;
mod services;
mod users;

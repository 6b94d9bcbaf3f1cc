//! wherry-netd on the real kernel: each test has network namespaces of its own for the node and its pods. Needs root.

mod faults;
mod host;
mod services;

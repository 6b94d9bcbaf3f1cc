//! The object layer over the store: what every write goes through, whether it came over HTTP or from a controller.
//!
//! A write is: decode → default → admit → validate → set metadata → compare-and-swap; retried on conflict where the caller's
//! change is a function of the object.

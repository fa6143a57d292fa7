//! The guide: pages that belong to no single item. Documentation only, there is no code here.
//!
//! * [`compile_errors`]: what rustc says when a task, a call or its input is wrong, how to read it, and
//!   what to do.
//! * [`limits`]: what cannot be had, what happens instead, and the nearest substitute.

/// What rustc says, how to read it, and what to do.
#[cfg_attr(not(loom), doc = "")]
#[cfg_attr(not(loom), doc = include_str!("guide/compile_errors.md"))]
pub mod compile_errors {}

/// What cannot be had, and the nearest substitute.
#[cfg_attr(not(loom), doc = "")]
#[cfg_attr(not(loom), doc = include_str!("guide/limits.md"))]
pub mod limits {}

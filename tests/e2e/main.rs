//! What clients of the real server see, one scenario each.
//!
//! Each scenario has a server of its own, so they run side by side. The answers are those of `docs/protocol.md`.

mod admin_command;
mod administration;
mod authentication;
mod bearers;
mod book;
mod classic;
mod codes;
mod drain;
mod extended;
mod lagging;
mod lists;
mod loadgen;
mod log_levels;
mod many_groups;
mod minimal;
mod order;
mod passwords;
mod proxied;
mod reconnecting;
mod removals;
mod resume;
mod taking_back;
mod terminal;
mod tls;

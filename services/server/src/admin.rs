//! The admin API: moderators and operators ask and act through gRPC.

pub mod config;

pub use config::Config;

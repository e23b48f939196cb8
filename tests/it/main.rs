//! The black-box ring: what `skiff run` does, seen from inside containers and from the host after them.
//!
//! Run it by `cargo xtask test [filter]`. The programs under test are given by the environment (`SKIFF`, `SKIFF_PROBE`);
//! state and run directories are private to each test, and each test ends by looking for what it left behind.
//! Whoever wants to add a test reads [`harness::Case`] first.

mod harness;

mod bad_input;
mod bench;
mod checkpoint;
mod client_daemon;
mod client_docker;
mod client_health;
mod client_lifecycle;
mod client_lists;
mod crash;
mod engine;
mod engine_logs;
mod fallback;
mod figures;
mod files;
mod flags_mounts;
mod flags_process;
mod flags_resources;
mod harden;
mod hostile;
mod image_commands;
mod image_registry;
mod images;
mod launch;
mod metrics;
mod namespaces;
mod observe;
mod oci;
mod peers;
mod prefetch;
mod profile;
mod registries;
mod rootless;
mod runtime_cgroups;
mod runtime_commands;
mod runtime_crash;
mod runtime_notify;
mod runtime_rootless;
mod runtime_security;
mod security;
mod signals;
mod stacks;
mod systemd;
mod systemd_units;
mod systemd_user;
mod top;
mod trace;
mod tree;
mod tty;

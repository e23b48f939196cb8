//! Layouts shared by the eBPF programs and their loader.
#![no_std]

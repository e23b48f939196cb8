//! Limits as properties of a unit. Pure. systemd.resource-control(5); the names and types on the bus are those of
//! org.freedesktop.systemd1(5).

use super::Value;
use crate::Error;
use crate::cgroup::resources::{swap_alone, wanted, weight};
use crate::oci::spec::{Cpu, Memory, Resources};

type Properties = Vec<(String, Value)>;

/// What systemd has properties for.
///
/// Errors: a list of CPUs or nodes that is none.
pub(in crate::cgroup) fn properties(resources: &Resources) -> Result<Properties, Error> {
    let mut all = Vec::new();
    if let Some(memory) = &resources.memory {
        self::memory(memory, &mut all)?;
    }
    if let Some(cpu) = &resources.cpu {
        self::cpu(cpu, &mut all)?;
    }
    if let Some(limit) = resources.pids.as_ref().and_then(|pids| wanted(pids.limit)) {
        push(&mut all, "TasksMax", or_infinite(limit));
    }
    if let Some(weight) = resources.block_io.as_ref().and_then(|block| wanted(block.weight)) {
        let spread = 1 + (u64::from(weight.clamp(10, 1000)) - 10) * 9_999 / 990;
        push(&mut all, "IOWeight", spread);
    }
    for (file, value) in &resources.unified {
        unified(file, value, &mut all);
    }
    Ok(all)
}

fn memory(memory: &Memory, all: &mut Properties) -> Result<(), Error> {
    let (limit, swap) = (wanted(memory.limit), wanted(memory.swap));
    if let Some(limit) = limit {
        push(all, "MemoryMax", or_infinite(limit));
    }
    if let Some(swap) = swap_alone(limit, swap)? {
        push(all, "MemorySwapMax", or_infinite(swap));
    }
    if let Some(bytes) = wanted(memory.reservation) {
        push(all, "MemoryLow", or_infinite(bytes));
    }
    Ok(())
}

fn cpu(cpu: &Cpu, all: &mut Properties) -> Result<(), Error> {
    if let Some(shares) = wanted(cpu.shares) {
        push(all, "CPUWeight", weight(shares));
    }
    if let Some(period) = wanted(cpu.period) {
        push(all, "CPUQuotaPeriodUSec", period);
    }
    if let Some(quota) = wanted(cpu.quota) {
        push(all, "CPUQuotaPerSecUSec", quota_per_second(quota, wanted(cpu.period).unwrap_or(100_000)));
    }
    for (name, list) in [("AllowedCPUs", &cpu.cpus), ("AllowedMemoryNodes", &cpu.mems)] {
        if !list.is_empty() {
            let bits = bits(list).ok_or_else(|| Error::Option(format!("{list:?} is no list of numbers")))?;
            all.push((name.into(), Value::Bytes(bits)));
        }
    }
    Ok(())
}

/// µs in each second, in steps of 10 ms, which is as fine as systemd takes it.
fn quota_per_second(quota: i64, period: u64) -> u64 {
    const STEP: u64 = 10_000;
    match u64::try_from(quota) {
        Ok(quota) => (quota.saturating_mul(1_000_000) / period).next_multiple_of(STEP),
        Err(_) => u64::MAX,
    }
}

/// A bit for each number of a list such as `0-2,7`.
fn bits(list: &str) -> Option<Vec<u8>> {
    let mut bits = Vec::new();
    for range in list.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u16, u16) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        for number in first..=last {
            let (byte, bit) = (usize::from(number / 8), number % 8);
            bits.resize(bits.len().max(byte + 1), 0);
            bits[byte] |= 1 << bit;
        }
    }
    Some(bits)
}

/// The files that stand for one number that systemd knows.
fn unified(file: &str, value: &str, all: &mut Properties) {
    let name = match file {
        "cpu.weight" => "CPUWeight",
        "memory.min" => "MemoryMin",
        "memory.low" => "MemoryLow",
        "memory.high" => "MemoryHigh",
        "memory.max" => "MemoryMax",
        "memory.swap.max" => "MemorySwapMax",
        "pids.max" => "TasksMax",
        _ => return,
    };
    let number = if value.trim() == "max" { Some(u64::MAX) } else { value.trim().parse().ok() };
    // Anything else the file itself will refuse.
    if let Some(number) = number {
        all.retain(|(known, _)| known != name);
        push(all, name, number);
    }
}

fn push(all: &mut Properties, name: &str, value: u64) {
    all.push((name.to_owned(), Value::Number(value)));
}

/// What systemd calls infinity.
fn or_infinite(limit: i64) -> u64 {
    u64::try_from(limit).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: &str, expect: &str) {
        let resources: Resources = serde_json::from_str(json).expect("resources");
        let shown = |(name, value): &(String, Value)| match value {
            Value::Number(u64::MAX) => format!("{name}=infinity"),
            Value::Number(number) => format!("{name}={number}"),
            other => format!("{name}={other:?}"),
        };
        let found = properties(&resources).map(|all| all.iter().map(shown).collect::<Vec<_>>().join(" "));
        assert_eq!(found.unwrap_or_else(|error| error.to_string()), expect);
    }

    #[test]
    fn limits_become_properties() {
        check("{}", "");
        check(
            r#"{"memory":{"limit":67108864,"swap":100663296,"reservation":33554432},"pids":{"limit":-1}}"#,
            "MemoryMax=67108864 MemorySwapMax=33554432 MemoryLow=33554432 TasksMax=infinity",
        );
        check(
            r#"{"cpu":{"shares":1024,"quota":50000,"period":100000,"cpus":"0-1,9"}}"#,
            "CPUWeight=39 CPUQuotaPeriodUSec=100000 CPUQuotaPerSecUSec=500000 AllowedCPUs=Bytes([3, 2])",
        );
        check(r#"{"cpu":{"quota":-1}}"#, "CPUQuotaPerSecUSec=infinity");
        check(r#"{"cpu":{"quota":33333}}"#, "CPUQuotaPerSecUSec=340000");
        check(r#"{"cpu":{"cpus":"a-b"}}"#, "\"a-b\" is no list of numbers");
        check(r#"{"blockIO":{"weight":1000}}"#, "IOWeight=10000");
        check(
            r#"{"memory":{"limit":7},"unified":{"memory.max":"max","memory.high":"9","io.max":"8:0 rbps=1"}}"#,
            "MemoryHigh=9 MemoryMax=infinity",
        );
    }
}

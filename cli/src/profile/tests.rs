//! A full profile and a sparse one, and their JSON against the published schema.

use serde_json::{Map, Value};
use skiff_ebpf::{Abi, Cost, Exec, Oom, Phase, Record, Syscall};
use skiff_runtime::cgroup::Usage;
use skiff_runtime::launch::{Exit, Stamps};

use super::*;

const SCHEMA: &str = include_str!("../../../docs/profile.schema.json");
const GUIDE: &str = include_str!("../../../docs/profile.md");

fn call(name: &str, nr: u32, count: u64, errors: &[(u16, u64)], [total, p50, p99, max]: [u64; 4]) -> Syscall {
    Syscall {
        nr: Some(nr),
        abi: Abi::Native,
        name: name.to_owned(),
        count,
        returned: count,
        refused: 0,
        unreturned: 0,
        errors: errors.to_vec(),
        total_ns: total,
        p50_ns: p50,
        p99_ns: p99,
        max_ns: max,
    }
}

fn init() -> Phase {
    let many = (0..14).map(|nr| call(&format!("call{nr}"), nr, 1, &[], [1000, 1000, 1000, 1000]));
    Phase {
        syscalls: many.collect(),
        minor_faults: Some(40),
        major_faults: Some(0),
        processes_created: 1,
        cpu_ns: Some(1_200_000),
        cpu_user_ns: None,
        cpu_system_ns: None,
        run_queue_ns: Some(12_000),
        off_cpu_ns: Some(90_000),
        voluntary_switches: Some(2),
        involuntary_switches: Some(0),
        block_read_bytes: Some(0),
        block_write_bytes: Some(0),
        block_reads: Some(0),
        block_writes: Some(0),
        ..Phase::default()
    }
}

fn workload() -> Phase {
    let exit = Syscall { returned: 0, unreturned: 1, ..call("exit_group", 231, 1, &[], [0; 4]) };
    let old = Syscall { abi: Abi::Compat, refused: 1, ..call("ptrace", 26, 1, &[(1, 1)], [0; 4]) };
    Phase {
        syscalls: vec![
            call("openat", 257, 1234, &[(2, 12), (13, 30)], [4_100_250, 3_120, 9_940, 51_000]),
            call("read", 0, 2000, &[], [900_000, 410, 1_020, 7_300]),
            exit,
            Syscall { returned: 0, ..old },
        ],
        minor_faults: Some(310),
        major_faults: Some(2),
        processes_created: 3,
        threads_created: 1,
        cpu_ns: Some(40_300_000),
        cpu_user_ns: Some(30_000_000),
        cpu_system_ns: Some(10_300_000),
        run_queue_ns: Some(450_000),
        off_cpu_ns: Some(1_230_000_000),
        voluntary_switches: Some(55),
        involuntary_switches: Some(7),
        block_read_bytes: Some(1_572_864),
        block_write_bytes: Some(4096),
        block_reads: Some(12),
        block_writes: Some(1),
    }
}

fn record() -> Record {
    let exec = |at_ns, workload, filename: &str, argv: &[&str]| Exec {
        at_ns,
        pid: 4711,
        filename: filename.to_owned(),
        argv: argv.iter().map(|&word| word.to_owned()).collect(),
        argv_cut: false,
        workload,
    };
    Record {
        init: init(),
        workload: workload(),
        exec_ns: Some(1_002_800_000),
        first_output_ns: Some(1_003_900_000),
        execs: vec![
            exec(1_002_800_000, true, "/bin/sh", &["sh", "-c", "ls; ls"]),
            exec(1_003_100_000, true, "/bin/ls", &["ls"]),
        ],
        execs_total: 3,
        oom: Some(Oom { kills: 1, at_ns: 1_004_000_000, pid: 4712, comm: "python3\u{1b}".into() }),
        lost: 0,
        missing: Vec::new(),
        cost: Cost {
            calls: 3236,
            ns_per_call: Some(95),
            ns_per_call_of_others: Some(55),
            map_bytes: 3_355_443,
            load_ns: 45_100_000,
        },
    }
}

fn stamps() -> Stamps {
    Stamps {
        start: 1_000_041_200,
        rootfs_done: 1_000_120_000,
        cgroup_done: 1_000_310_000,
        child: 1_000_700_500,
        mounts_done: 1_001_900_000,
        security_done: 1_002_400_000,
        exec_seen: 1_002_801_000,
    }
}

/// A profile in which everything has a figure.
pub(super) fn document() -> Document {
    let usage = Usage {
        cpu_user_us: Some(30_500),
        cpu_system_us: Some(11_000),
        periods: Some(10),
        throttled_periods: Some(3),
        throttled_us: Some(150_000),
        memory_peak_bytes: Some(12_345_678),
        block_read_bytes: Some(1_572_864),
        block_write_bytes: Some(4096),
        block_reads: Some(12),
        block_writes: Some(1),
        oom_kills: Some(1),
    };
    Document::new(&Run {
        id: "3f2a9c81d0e4b5a6978812ab34cd56ef3f2a9c81d0e4b5a6978812ab34cd56ef",
        name: Some("web"),
        image: Some("host"),
        argv: ["sh", "-c", "ls; ls"].map(str::to_owned).to_vec(),
        exit: Some(Exit::Code(3)),
        begin_ns: 1_000_000_000,
        arm_ns: 1_000_300_000,
        ended_ns: 2_250_000_000,
        stamps: &stamps(),
        usage: &usage,
        record: &record(),
        prefetch: None,
        run: None,
        uses: None,
    })
}

/// A profile of a program that was killed before it wrote, on a host that can tell little.
pub(super) fn sparse() -> Document {
    let record = Record {
        exec_ns: Some(1_002_800_000),
        lost: 7,
        missing: vec!["block I/O: no tracepoint block_rq_issue".into()],
        workload: Phase { processes_created: 1, ..Phase::default() },
        ..Record::default()
    };
    Document::new(&Run {
        id: "3f2a9c81d0e4b5a6978812ab34cd56ef3f2a9c81d0e4b5a6978812ab34cd56ef",
        name: None,
        image: Some("rootfs:/srv/x"),
        argv: vec!["/probe".to_owned()],
        exit: Some(Exit::Signal(9)),
        begin_ns: 1_000_000_000,
        arm_ns: 1_000_300_000,
        ended_ns: 1_500_000_000,
        stamps: &stamps(),
        usage: &Usage::default(),
        record: &record,
        prefetch: None,
        run: None,
        uses: None,
    })
}

#[test]
fn the_json_keeps_to_the_published_schema() {
    let schema: Value = serde_json::from_str(SCHEMA).expect("the schema is JSON");
    for document in [document(), sparse()] {
        let value = serde_json::from_str(&json(&document).expect("JSON")).expect("JSON");
        conforms(&schema, &schema, &value, "$");
    }
}

#[test]
fn the_schema_s_check_can_fail() {
    let schema: Value = serde_json::from_str(SCHEMA).expect("the schema is JSON");
    let broken = |change: fn(&mut Map<String, Value>)| {
        let mut value = serde_json::to_value(document()).expect("JSON");
        change(value.as_object_mut().expect("an object"));
        std::panic::catch_unwind(|| conforms(&schema, &schema, &value, "$")).is_err()
    };
    assert!(broken(|value| drop(value.remove("cost"))));
    assert!(broken(|value| drop(value.insert("extra".into(), Value::Null))));
    assert!(broken(|value| drop(value.insert("events_lost".into(), "0".into()))));
    assert!(broken(|value| drop(value.insert("schema".into(), "skiff.profile/2".into()))));
}

#[test]
fn the_text_lists_some_programs_and_counts_the_rest() {
    let mut document = document();
    let first = document.execs.listed.swap_remove(0);
    let again = |at| document::Exec { file: format!("/bin/{at}"), arguments: Vec::new(), ..first.clone() };
    document.execs = document::Execs { total: 500, listed: (0..100).map(again).collect() };
    let text = render(&document);
    assert!(text.contains("/bin/39\n  and 460 more\n") && !text.contains("/bin/40"), "{text}");
}

#[test]
fn every_key_of_the_schema_is_in_the_guide() {
    fn keys(value: &Value, found: &mut Vec<String>) {
        if let Some(properties) = value.get("properties").and_then(Value::as_object) {
            found.extend(properties.keys().cloned());
        }
        match value {
            Value::Object(map) => map.values().for_each(|value| keys(value, found)),
            Value::Array(list) => list.iter().for_each(|value| keys(value, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    keys(&serde_json::from_str(SCHEMA).expect("the schema is JSON"), &mut found);
    assert!(found.len() > 50);
    for key in found {
        assert!(GUIDE.contains(&format!("`{key}`")), "{key}");
    }
}

/// Checks `value` against the part of JSON Schema that the schema uses; stricter in that no key may be undocumented.
fn conforms(root: &Value, schema: &Value, value: &Value, at: &str) {
    if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
        let target = root.pointer(reference.trim_start_matches('#')).expect(reference);
        return conforms(root, target, value, at);
    }
    if let Some(expected) = schema.get("const") {
        assert_eq!(value, expected, "{at}");
    }
    if let Some(options) = schema.get("enum").and_then(Value::as_array) {
        assert!(options.contains(value), "{at}: {value}");
    }
    if let Some(options) = schema.get("oneOf").and_then(Value::as_array) {
        let null = options.iter().any(|option| option.get("type") == Some(&"null".into()));
        if value.is_null() && null {
            return;
        }
        return conforms(root, &options[0], value, at);
    }
    if let Some(expected) = schema.get("type") {
        let names = expected.as_array().cloned().unwrap_or_else(|| vec![expected.clone()]);
        assert!(
            names.iter().any(|name| is(name.as_str().expect("a type"), value)),
            "{at}: {value} is not {expected}"
        );
    }
    match value {
        Value::Object(map) => members(root, schema, map, at),
        Value::Array(list) => {
            let items = schema.get("items").expect(at);
            list.iter().enumerate().for_each(|(n, item)| conforms(root, items, item, &format!("{at}[{n}]")));
        }
        _ => {}
    }
}

fn members(root: &Value, schema: &Value, map: &Map<String, Value>, at: &str) {
    for required in schema.get("required").and_then(Value::as_array).into_iter().flatten() {
        assert!(map.contains_key(required.as_str().expect("a key")), "{at} lacks {required}");
    }
    for (key, value) in map {
        let member = schema.get("properties").and_then(|properties| properties.get(key));
        let member =
            member.or_else(|| schema.get("additionalProperties")).filter(|member| member.is_object());
        conforms(
            root,
            member.unwrap_or_else(|| panic!("{at}.{key} is not documented")),
            value,
            &format!("{at}.{key}"),
        );
    }
}

fn is(name: &str, value: &Value) -> bool {
    match name {
        "null" => value.is_null(),
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        other => panic!("unknown type {other}"),
    }
}

//! config-linux.md: seccomp.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Instant;

use serde_json::{Value, json};

use super::Bundle;
use super::bundle::fails;
use super::hosting::{claimed, claims};
use super::passed::Receiver;
use super::stream::await_input;
use crate::harness::{parse, time_limit};

/// The call that rules of these tests are about: the program never makes it but when told to. Without a rule it fails for
/// the third argument in a way of its own.
const NAME: &str = "getpriority";
const CALL: i64 = libc::SYS_getpriority;

/// A configuration that allows everything but what `rules` say.
fn filter(rules: Value) -> Value {
    json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules })
}

fn with_rules(rules: Value) -> Bundle {
    Bundle::with([("/linux/seccomp", filter(rules))])
}

/// What the call says in a container with this filter, for each of these arguments.
#[track_caller]
fn calls(bundle: &mut Bundle, arguments: &[&str]) -> Vec<String> {
    let number = CALL.to_string();
    let tries: Vec<&str> =
        arguments.iter().flat_map(|arguments| ["syscall", &number[..], arguments]).collect();
    bundle.attempt(&tries)
}

/// What it says of the caller itself where it is allowed: 20 less the nice value that programs inherit.
fn allowed() -> String {
    let stat = fs::read_to_string("/proc/self/stat").expect("procfs");
    let after_name = stat.rsplit(')').next().expect("fields");
    // The 19th field.
    let nice: i32 =
        after_name.split_whitespace().nth(16).and_then(|nice| nice.parse().ok()).expect("a number");
    (20 - nice).to_string()
}

#[test]
fn without_a_filter_there_is_none() {
    assert_eq!(Bundle::new().see()["status"]["Seccomp"], "0");
}

#[test]
fn with_a_filter_there_is_one() {
    let seen = with_rules(json!([{ "names": [NAME], "action": "SCMP_ACT_ERRNO" }])).see();
    assert_eq!(seen["status"]["Seccomp"], "2");
}

#[test]
fn an_error_is_eperm_if_nothing_else_is_said() {
    let mut bundle = with_rules(json!([{ "names": [NAME], "action": "SCMP_ACT_ERRNO" }]));
    assert_eq!(calls(&mut bundle, &["0,0"]), ["EPERM"]);
}

#[test]
fn an_error_is_the_one_that_is_asked_for() {
    let mut bundle = with_rules(json!([{ "names": [NAME], "action": "SCMP_ACT_ERRNO", "errnoRet": 77 }]));
    assert_eq!(calls(&mut bundle, &["0,0"]), ["EBADFD"]);
}

#[test]
fn an_error_may_be_zero() {
    let mut bundle = with_rules(json!([{ "names": [NAME], "action": "SCMP_ACT_ERRNO", "errnoRet": 0 }]));
    assert_eq!(calls(&mut bundle, &["9,0"]), ["0"]);
}

#[test]
fn a_rule_may_name_several_calls() {
    let rules = json!([{ "names": ["getpgid", NAME, "getsid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 77 }]);
    let numbers = [libc::SYS_getpgid, CALL, libc::SYS_getsid].map(|number| number.to_string());
    let tries: Vec<&str> = numbers.iter().flat_map(|number| ["syscall", &number[..], "0,0"]).collect();
    assert_eq!(with_rules(rules).attempt(&tries), ["EBADFD"; 3]);
}

#[test]
fn calls_without_a_rule_get_the_default() {
    let mut bundle = with_rules(json!([{ "names": ["getsid"], "action": "SCMP_ACT_ERRNO" }]));
    assert_eq!(calls(&mut bundle, &["0,0"]), [allowed()]);
}

/// Allows every call of docker's profile but one, by a default that is an error.
fn denying(default: Value) -> Value {
    let text = include_str!("../../../runtime/testdata/docker-seccomp.json");
    let profile = parse(text);
    let rules = profile["syscalls"].as_array().expect("rules");
    let names = rules.iter().filter(|rule| rule["action"] == "SCMP_ACT_ALLOW" && rule["args"].is_null());
    let names = names.flat_map(|rule| rule["names"].as_array().cloned().unwrap_or_default());
    let mut names: Vec<Value> = names.filter(|name| name != NAME).collect();
    names.sort_by_key(ToString::to_string);
    names.dedup();
    let mut filter = json!({ "syscalls": [{ "names": names, "action": "SCMP_ACT_ALLOW" }] });
    for (key, value) in default.as_object().expect("an object") {
        filter[key] = value.clone();
    }
    filter
}

#[test]
fn a_default_error_is_eperm_if_nothing_else_is_said() {
    let mut bundle =
        Bundle::with([("/linux/seccomp", denying(json!({ "defaultAction": "SCMP_ACT_ERRNO" })))]);
    assert_eq!(calls(&mut bundle, &["0,0"]), ["EPERM"]);
}

#[test]
fn a_default_error_is_the_one_that_is_asked_for() {
    let default = json!({ "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 77 });
    let mut bundle = Bundle::with([("/linux/seccomp", denying(default))]);
    assert_eq!(calls(&mut bundle, &["0,0"]), ["EBADFD"]);
}

#[test]
fn a_rule_counts_more_than_the_default() {
    let mut filter = denying(json!({ "defaultAction": "SCMP_ACT_ERRNO" }));
    let rules = filter["syscalls"].as_array_mut().expect("rules");
    rules.push(json!({ "names": [NAME], "action": "SCMP_ACT_ERRNO", "errnoRet": 77 }));
    assert_eq!(calls(&mut Bundle::with([("/linux/seccomp", filter)]), &["0,0"]), ["EBADFD"]);
}

/// How a child ends that makes the call, as a shell tells it.
#[track_caller]
fn end(action: &str) -> String {
    let mut bundle = with_rules(json!([{ "names": [NAME], "action": action }]));
    let script = format!("probe try syscall {CALL} 0,0; echo $?");
    bundle.args(&["/bin/sh", "-c", &script]).run()
}

#[test]
fn action_kill_kills() {
    assert!(end("SCMP_ACT_KILL").ends_with("159\n"));
}

#[test]
fn action_kill_thread_kills() {
    assert!(end("SCMP_ACT_KILL_THREAD").ends_with("159\n"));
}

#[test]
fn action_kill_process_kills() {
    assert!(end("SCMP_ACT_KILL_PROCESS").ends_with("159\n"));
}

#[test]
fn action_trap_sends_a_signal() {
    assert!(end("SCMP_ACT_TRAP").ends_with("159\n"));
}

#[test]
fn action_allow_allows() {
    assert_eq!(end("SCMP_ACT_ALLOW"), format!("{}\n0\n", allowed()));
}

#[test]
fn action_log_allows() {
    assert_eq!(end("SCMP_ACT_LOG"), format!("{}\n0\n", allowed()));
}

#[test]
fn action_trace_without_a_tracer_is_enosys() {
    assert_eq!(end("SCMP_ACT_TRACE"), "ENOSYS\n0\n");
}

#[test]
fn an_unknown_action_is_an_error() {
    with_rules(json!([{ "names": [NAME], "action": "SCMP_ACT_SING" }])).wrong().never_runs();
}

#[test]
fn an_error_for_an_action_that_has_none_is_an_error() {
    for action in ["SCMP_ACT_ALLOW", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_LOG"] {
        with_rules(json!([{ "names": [NAME], "action": action, "errnoRet": 5 }])).never_runs();
    }
}

#[test]
fn a_default_error_for_an_action_that_has_none_is_an_error() {
    let filter = json!({ "defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 5 });
    Bundle::with([("/linux/seccomp", filter)]).never_runs();
}

#[test]
fn a_rule_without_names_is_an_error() {
    with_rules(json!([{ "names": [], "action": "SCMP_ACT_ERRNO" }])).never_runs();
}

/// For which first arguments of the call a condition holds.
#[track_caller]
fn matching(op: &str, value: u64, arguments: &[&str]) -> Vec<bool> {
    let condition = json!({ "index": 0, "value": value, "op": op });
    holding(json!([condition]), arguments)
}

#[track_caller]
fn holding(conditions: Value, arguments: &[&str]) -> Vec<bool> {
    let rule = json!({ "names": [NAME], "action": "SCMP_ACT_ERRNO", "errnoRet": 77, "args": conditions });
    let verdicts = calls(&mut with_rules(json!([rule])), arguments);
    verdicts.iter().map(|verdict| verdict == "EBADFD").collect()
}

/// Around a number that needs more than 32 bits, and numbers that differ from it in one half alone.
const AROUND: [&str; 5] = ["0x2fffffffff", "0x3000000000", "0x3000000001", "0x1000000000", "0"];
const MIDDLE: u64 = 0x30_0000_0000;

#[test]
fn operator_eq() {
    assert_eq!(matching("SCMP_CMP_EQ", MIDDLE, &AROUND), [false, true, false, false, false]);
}

#[test]
fn operator_ne() {
    assert_eq!(matching("SCMP_CMP_NE", MIDDLE, &AROUND), [true, false, true, true, true]);
}

#[test]
fn operator_lt() {
    assert_eq!(matching("SCMP_CMP_LT", MIDDLE, &AROUND), [true, false, false, true, true]);
}

#[test]
fn operator_le() {
    assert_eq!(matching("SCMP_CMP_LE", MIDDLE, &AROUND), [true, true, false, true, true]);
}

#[test]
fn operator_gt() {
    assert_eq!(matching("SCMP_CMP_GT", MIDDLE, &AROUND), [false, false, true, false, false]);
}

#[test]
fn operator_ge() {
    assert_eq!(matching("SCMP_CMP_GE", MIDDLE, &AROUND), [false, true, true, false, false]);
}

#[test]
fn operator_masked_eq() {
    let condition = json!({ "index": 0, "value": 0xf0_0000_000fu64, "valueTwo": 0x30_0000_0001u64, "op": "SCMP_CMP_MASKED_EQ" });
    let arguments = ["0x3000000001", "0x3f00000ff1", "0x3000000000", "0x2000000001", "1"];
    assert_eq!(holding(json!([condition]), &arguments), [true, true, false, false, false]);
}

#[test]
fn conditions_on_several_arguments_hold_together() {
    let one = |index: u32, value: u32| json!({ "index": index, "value": value, "op": "SCMP_CMP_EQ" });
    let held = holding(
        json!([one(0, 1), one(1, 2), one(5, 3)]),
        &["1,2,0,0,0,3", "1,2", "0,2,0,0,0,3", "1,0,0,0,0,3"],
    );
    assert_eq!(held, [true, false, false, false]);
}

#[test]
fn rules_for_one_call_hold_one_by_one() {
    let rule = |value: u32, errno: u32| {
        let condition = json!({ "index": 0, "value": value, "op": "SCMP_CMP_EQ" });
        json!({ "names": [NAME], "action": "SCMP_ACT_ERRNO", "errnoRet": errno, "args": [condition] })
    };
    let mut bundle = with_rules(json!([rule(1, 77), rule(2, 38)]));
    assert_eq!(calls(&mut bundle, &["1,0", "2,0", "0,0"]), ["EBADFD", "ENOSYS", &allowed()]);
}

#[test]
fn an_unknown_operator_is_an_error() {
    let condition = json!({ "index": 0, "value": 1, "op": "SCMP_CMP_LIKE" });
    with_rules(json!([{ "names": [NAME], "action": "SCMP_ACT_ERRNO", "args": [condition] }]))
        .wrong()
        .never_runs();
}

#[test]
fn an_argument_beyond_the_sixth_is_an_error() {
    let condition = json!({ "index": 6, "value": 1, "op": "SCMP_CMP_EQ" });
    with_rules(json!([{ "names": [NAME], "action": "SCMP_ACT_ERRNO", "args": [condition] }])).never_runs();
}

/// A filter for these architectures with a rule for getpid, whose number differs between them.
fn for_architectures(names: &[&str]) -> Value {
    let rules = json!([{ "names": ["getppid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 77 }]);
    json!({ "defaultAction": "SCMP_ACT_ALLOW", "architectures": names, "syscalls": rules })
}

#[test]
#[cfg(target_arch = "x86_64")]
fn rules_are_for_every_architecture_that_is_listed() {
    let number = libc::SYS_getppid.to_string();
    let plain = Bundle::new().attempt(&["syscall32", "64"]);
    if plain[0].parse::<i32>().is_err() {
        return super::hosting::lacks("a kernel with 32-bit system calls");
    }
    let names = ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"];
    let mut bundle = Bundle::with([("/linux/seccomp", for_architectures(&names))]);
    assert_eq!(bundle.attempt(&["syscall", &number, "", "syscall32", "64"]), ["EBADFD", "EBADFD"]);
}

#[test]
#[cfg(target_arch = "x86_64")]
fn x32_is_an_architecture_of_its_own() {
    // The number with the bit of x32. A kernel that lacks x32 says ENOSYS, but the filter comes first.
    let number = (libc::SYS_getppid | 0x4000_0000).to_string();
    let names = ["SCMP_ARCH_X86_64", "SCMP_ARCH_X32"];
    let mut bundle = Bundle::with([("/linux/seccomp", for_architectures(&names))]);
    assert_eq!(bundle.attempt(&["syscall", &number, ""]), ["EBADFD"]);
}

#[test]
fn an_unknown_architecture_is_an_error() {
    Bundle::with([("/linux/seccomp", for_architectures(&["SCMP_ARCH_ABACUS"]))]).wrong().never_runs();
}

/// What the program sees under a filter with this flag.
fn with_flag(flag: &str) -> Value {
    let mut filter = filter(json!([{ "names": [NAME], "action": "SCMP_ACT_ERRNO" }]));
    filter["flags"] = json!([flag]);
    Bundle::with([("/linux/seccomp", filter)]).see()
}

fn supports(flag: &str) -> bool {
    claims("/linux/seccomp/supportedFlags", flag)
}

#[test]
fn flag_log_is_taken() {
    claimed!(supports("SECCOMP_FILTER_FLAG_LOG"), "flags of seccomp");
    assert_eq!(with_flag("SECCOMP_FILTER_FLAG_LOG")["status"]["Seccomp"], "2");
}

#[test]
fn flag_tsync_is_taken() {
    claimed!(supports("SECCOMP_FILTER_FLAG_TSYNC"), "flags of seccomp");
    assert_eq!(with_flag("SECCOMP_FILTER_FLAG_TSYNC")["status"]["Seccomp"], "2");
}

#[test]
fn flag_spec_allow_leaves_speculation_alone() {
    claimed!(supports("SECCOMP_FILTER_FLAG_SPEC_ALLOW"), "flags of seccomp");
    let before = Bundle::new().see()["status"]["Speculation_Store_Bypass"].take();
    assert_eq!(with_flag("SECCOMP_FILTER_FLAG_SPEC_ALLOW")["status"]["Speculation_Store_Bypass"], before);
}

#[test]
fn an_unknown_flag_is_an_error() {
    let mut filter = filter(json!([{ "names": [NAME], "action": "SCMP_ACT_ERRNO" }]));
    filter["flags"] = json!(["SECCOMP_FILTER_FLAG_STRIPES"]);
    Bundle::with([("/linux/seccomp", filter)]).wrong().never_runs();
}

#[test]
fn a_filter_does_not_hinder_the_runtime() {
    // None of these is needed by the program any more, but by every runtime while it makes the container.
    let names =
        ["mount", "umount2", "pivot_root", "setns", "unshare", "chroot", "capset", "setresuid", "setgroups"];
    let mut bundle = with_rules(json!([{ "names": names, "action": "SCMP_ACT_ERRNO" }]));
    bundle.set("/process/noNewPrivileges", json!(true));
    bundle.set("/process/user", json!({ "uid": 1234, "gid": 4321 }));
    assert_eq!(bundle.attempt(&["chroot", "/"]), ["EPERM"]);
}

/// A container whose calls an agent answers, and the agent's socket.
fn notifying() -> (Bundle, Receiver) {
    let mut bundle = with_rules(json!([{ "names": [NAME], "action": "SCMP_ACT_NOTIFY" }]));
    let receiver = Receiver::new(&bundle.dir.join("agent"));
    bundle.set("/linux/seccomp/listenerPath", json!(receiver.path));
    bundle.set("/linux/seccomp/listenerMetadata", json!("of the test"));
    bundle.set("/annotations", json!({ "a": "b" }));
    (bundle, receiver)
}

/// Creates and starts it; the state that the agent got, the listener, and the container's process.
fn start(bundle: &mut Bundle, receiver: &Receiver) -> (Value, OwnedFd, i32) {
    bundle.args(&["/bin/probe", "try", "syscall", &CALL.to_string(), "0,0"]);
    // A runtime connects while it creates the container or when it starts it; a connection waits until it is taken.
    let pid = bundle.create().pid();
    bundle.start();
    let mut parcel = receiver.receive();
    assert_eq!(parcel.fds.len(), 1, "{}", parcel.text);
    (parse(&parcel.text), parcel.fds.pop().expect("one"), pid)
}

const RECEIVE: libc::Ioctl = 0xc050_2100u32 as libc::Ioctl;
const SEND: libc::Ioctl = 0xc018_2101u32 as libc::Ioctl;

/// Waits for a call and answers it with a value and an error.
fn answer(listener: &OwnedFd, value: i64, error: i32) -> libc::seccomp_notif {
    assert!(await_input(listener, Instant::now() + time_limit()), "no call comes");
    // SAFETY: zeroes are a valid value of this structure, and what the kernel wants to find.
    let mut call: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel fills exactly this structure.
    let received = unsafe { libc::ioctl(listener.as_raw_fd(), RECEIVE, &raw mut call) };
    assert_eq!(received, 0, "{}", std::io::Error::last_os_error());
    let mut reply = libc::seccomp_notif_resp { id: call.id, val: value, error: -error, flags: 0 };
    // SAFETY: the kernel reads exactly this structure.
    let sent = unsafe { libc::ioctl(listener.as_raw_fd(), SEND, &raw mut reply) };
    assert_eq!(sent, 0, "{}", std::io::Error::last_os_error());
    call
}

/// Lets the container come to its end; what it has printed.
fn finish(bundle: &Bundle, pid: i32) -> String {
    let text = bundle.rest();
    bundle.wait(pid);
    bundle.delete();
    text
}

#[test]
fn an_agent_answers_calls() {
    let (mut bundle, receiver) = notifying();
    let (_, listener, pid) = start(&mut bundle, &receiver);
    assert_eq!(i64::from(answer(&listener, 4242, 0).data.nr), CALL);
    assert_eq!(finish(&bundle, pid), "4242\n");
}

#[test]
fn an_agent_refuses_calls() {
    let (mut bundle, receiver) = notifying();
    let (_, listener, pid) = start(&mut bundle, &receiver);
    answer(&listener, 0, libc::EBADFD);
    assert_eq!(finish(&bundle, pid), "EBADFD\n");
}

#[test]
fn an_agent_is_told_the_state() {
    let (mut bundle, receiver) = notifying();
    let (state, listener, pid) = start(&mut bundle, &receiver);
    assert_eq!(state["fds"], json!(["seccompFd"]));
    assert_eq!(state["metadata"], "of the test");
    assert!(state["ociVersion"].is_string());
    assert_eq!(state["pid"], pid);
    let inner = &state["state"];
    assert_eq!((&inner["id"], &inner["pid"]), (&json!(bundle.id), &json!(pid)));
    assert_eq!(inner["bundle"], bundle.dir.display().to_string());
    assert_eq!(inner["annotations"]["a"], "b");
    assert!(inner["status"].is_string() && inner["ociVersion"].is_string(), "{inner}");
    answer(&listener, 0, 0);
    finish(&bundle, pid);
}

#[test]
fn an_agent_is_called_once() {
    let (mut bundle, receiver) = notifying();
    let (_, listener, pid) = start(&mut bundle, &receiver);
    answer(&listener, 0, 0);
    finish(&bundle, pid);
    assert!(!receiver.is_called());
}

#[test]
fn an_agent_that_is_not_there_is_an_error() {
    let (mut bundle, receiver) = notifying();
    drop(receiver);
    bundle.set("/linux/seccomp/listenerPath", json!(bundle.dir.join("nobody"))).never_runs();
}

#[test]
fn an_agent_that_nothing_is_for_is_not_called() {
    let mut bundle = with_rules(json!([{ "names": [NAME], "action": "SCMP_ACT_ERRNO" }]));
    let receiver = Receiver::new(&bundle.dir.join("agent"));
    bundle.set("/linux/seccomp/listenerPath", json!(receiver.path));
    assert_eq!(calls(&mut bundle, &["0,0"]), ["EPERM"]);
    assert!(!receiver.is_called());
}

#[test]
fn metadata_without_an_agent_are_an_error() {
    let mut bundle = with_rules(json!([{ "names": [NAME], "action": "SCMP_ACT_ERRNO" }]));
    bundle.set("/linux/seccomp/listenerMetadata", json!("of the test")).never_runs();
}

#[test]
fn a_call_that_nobody_answers_ends_with_the_agent() {
    let (mut bundle, receiver) = notifying();
    let (_, listener, pid) = start(&mut bundle, &receiver);
    drop(listener);
    assert_eq!(finish(&bundle, pid), "ENOSYS\n");
    fails(&bundle.runtime(&["state", &bundle.id]));
}

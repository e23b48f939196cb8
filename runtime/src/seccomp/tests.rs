//! Programs are run by an interpreter and compared with the profile evaluated rule by rule, the slow and obvious way.

#![expect(clippy::cast_possible_truncation, reason = "small constants, and halves of arguments on purpose")]

use skiff_sys::syscalls::{self, NUMBERS};

use super::rules::{Action, Condition, Operator, Rules};
use super::*;

const X86_64: u32 = 0xc000_003e;
const I386: u32 = 0x4000_0003;
const NEW: Kernel = Kernel(6, 18);

#[derive(Debug, Clone, Copy)]
struct Call {
    arch: u32,
    number: u32,
    args: [u64; 6],
}

/// What the kernel makes of a call.
#[derive(Debug)]
struct Outcome {
    action: u32,
    /// Whether an argument was looked at.
    looked: bool,
    /// Instructions run.
    steps: usize,
}

fn interpret(program: &[Instruction], call: Call) -> Outcome {
    let mut accumulator = 0u32;
    let mut looked = false;
    let mut at = 0;
    for steps in 1..=program.len() {
        let Instruction { code, jt, jf, k } = program[at];
        at += 1;
        let skip = |holds: bool| usize::from(if holds { jt } else { jf });
        match code {
            bpf::LOAD => {
                looked |= k >= 16;
                accumulator = match k {
                    0 => call.number,
                    4 => call.arch,
                    16..64 if k % 8 == 0 => call.args[(k as usize - 16) / 8] as u32,
                    16..64 if k % 4 == 0 => (call.args[(k as usize - 16) / 8] >> 32) as u32,
                    _ => panic!("load from {k}"),
                };
            }
            bpf::AND => accumulator &= k,
            bpf::JUMP => at += k as usize,
            bpf::JUMP_EQUAL => at += skip(accumulator == k),
            bpf::JUMP_GREATER => at += skip(accumulator > k),
            bpf::JUMP_GREATER_OR_EQUAL => at += skip(accumulator >= k),
            bpf::RETURN => return Outcome { action: k, looked, steps },
            other => panic!("instruction {other:#x}"),
        }
    }
    panic!("the program does not end");
}

/// A rule as a person reads it.
#[derive(Debug, Clone)]
struct Plain {
    name: String,
    action: Action,
    conditions: Vec<Condition>,
}

#[derive(Debug)]
struct PlainProfile {
    default: Action,
    compat: bool,
    rules: Vec<Plain>,
}

impl PlainProfile {
    fn compile(&self) -> Vec<Instruction> {
        let mut rules = Rules::new(self.default, self.compat);
        for rule in &self.rules {
            rules.add(&[&rule.name], rule.action, &rule.conditions);
        }
        program::assemble(&rules)
    }

    /// `rules` are those of this profile for `call`'s number, in order.
    fn decide(&self, rules: &[&Plain], call: Call) -> u32 {
        match call.arch {
            X86_64 if call.number >= 0x4000_0000 => return 0x0005_0026,
            X86_64 => {}
            I386 if self.compat => {}
            _ => return 0x8000_0000,
        }
        if let Some(rule) = rules.iter().find(|rule| rule.conditions.is_empty()) {
            return rule.action.0;
        }
        let holds = |condition: &Condition| {
            let argument = call.args[usize::from(condition.argument)];
            if call.arch == I386 {
                let cut = u64::from(u32::MAX);
                let operator = match condition.operator {
                    Operator::MaskedEqual(mask) => Operator::MaskedEqual(mask & cut),
                    other => other,
                };
                compare(argument & cut, operator, condition.value & cut)
            } else {
                compare(argument, condition.operator, condition.value)
            }
        };
        for rule in rules {
            let mut arguments: Vec<u8> = rule.conditions.iter().map(|c| c.argument).collect();
            arguments.sort_unstable();
            arguments.dedup();
            let applies = if arguments.len() < rule.conditions.len() {
                rule.conditions.iter().any(holds)
            } else {
                rule.conditions.iter().all(holds)
            };
            if applies {
                return rule.action.0;
            }
        }
        self.default.0
    }

    /// The rules for each number of `arch`; on i386 also those that come through a multiplexer.
    fn by_number(&self, arch: u32) -> Vec<Vec<Plain>> {
        let mut table = vec![Vec::new(); NUMBERS];
        for rule in self.rules.iter().filter(|rule| rule.action != self.default) {
            let call = syscalls::find(&rule.name);
            let number =
                if arch == X86_64 { call.and_then(|c| c.x86_64()) } else { call.and_then(|c| c.i386()) };
            if let Some(number) = number {
                table[usize::from(number)].push(rule.clone());
            }
            let Some((multiplexer, mask, value)) = multiplexed(&rule.name) else { continue };
            if arch == I386 && (rule.conditions.is_empty() || !rule.action.permits()) {
                let condition = Condition { argument: 0, operator: Operator::MaskedEqual(mask), value };
                table[multiplexer].push(Plain { conditions: vec![condition], ..rule.clone() });
            }
        }
        table
    }
}

fn compare(argument: u64, operator: Operator, value: u64) -> bool {
    match operator {
        Operator::Equal => argument == value,
        Operator::NotEqual => argument != value,
        Operator::Less => argument < value,
        Operator::LessOrEqual => argument <= value,
        Operator::Greater => argument > value,
        Operator::GreaterOrEqual => argument >= value,
        Operator::MaskedEqual(mask) => argument & mask == value,
    }
}

/// Some of the multiplexed calls: number of the multiplexer, what counts of its first argument, and its value.
fn multiplexed(name: &str) -> Option<(usize, u64, u64)> {
    let cut = u64::from(u32::MAX);
    Some(match name {
        "socket" => (102, cut, 1),
        "bind" => (102, cut, 2),
        "accept" => (102, cut, 5),
        "send" => (102, cut, 9),
        "sendmmsg" => (102, cut, 20),
        "semop" => (117, 0xffff, 1),
        "shmctl" => (117, 0xffff, 24),
        _ => return None,
    })
}

/// Compares program and profile for every number and many arguments.
fn check(profile: &PlainProfile, program: &[Instruction], values: &[u64]) {
    for arch in [X86_64, I386] {
        let table = profile.by_number(arch);
        let nothing = Vec::new();
        let beyond = [NUMBERS as u32, 1000, 0x3fff_ffff, 0x4000_0000, 0x4000_0001, 0x7fff_ffff, u32::MAX];
        for number in (0..NUMBERS as u32).chain(beyond) {
            let rules: Vec<&Plain> = table.get(number as usize).unwrap_or(&nothing).iter().collect();
            let unconditional = rules.iter().any(|rule| rule.conditions.is_empty()) || rules.is_empty();
            let values = if unconditional { &values[..1] } else { values };
            for call in calls(arch, number, &rules, values) {
                let got = interpret(program, call);
                assert_eq!(got.action, profile.decide(&rules, call), "{call:x?}\n{rules:#x?}");
                assert!(!(got.looked && unconditional), "a constant answer must not cost a look: {call:x?}");
            }
        }
    }
    for arch in [0, I386 ^ 1, 0xc000_00b7] {
        assert_eq!(interpret(program, Call { arch, number: 0, args: [0; 6] }).action, 0x8000_0000);
    }
}

/// Each argument that a rule compares takes each of `values` and what lies around the constants, the others one of
/// `values` in turn.
fn calls(arch: u32, number: u32, rules: &[&Plain], values: &[u64]) -> Vec<Call> {
    let mut calls = Vec::new();
    for index in 0..6 {
        let conditions =
            || rules.iter().flat_map(|r| &r.conditions).filter(|c| usize::from(c.argument) == index);
        if conditions().next().is_none() && index > 0 {
            continue;
        }
        let near = conditions().flat_map(|c| {
            let mask = if let Operator::MaskedEqual(mask) = c.operator { mask } else { 0 };
            [c.value, c.value.wrapping_add(1), c.value.wrapping_sub(1), c.value ^ 1 << 32, c.value | !mask]
        });
        for (turn, value) in values.iter().copied().chain(near).enumerate() {
            let mut args = [values[turn % values.len()]; 6];
            args[index] = if arch == I386 { value & u64::from(u32::MAX) } else { value };
            calls.push(Call { arch, number, args });
        }
    }
    calls
}

const VALUES: &[u64] = &[
    0,
    1,
    2,
    8,
    9,
    11,
    12,
    13,
    16,
    38,
    39,
    40,
    41,
    45,
    46,
    0x10000,
    0x20000,
    0x20008,
    0x10000000,
    0x7e020000,
    0x40000000,
    u32::MAX as u64,
    1 << 32,
    (1 << 32) + 40,
    u64::MAX - 1,
    u64::MAX,
];

const DOCKER_JSON: &str = include_str!("../../testdata/docker-seccomp.json");

/// Reads `text` for a container with `caps`, with an eye for just what [`DOCKER_JSON`] has.
fn plain(text: &str, caps: CapSet) -> PlainProfile {
    let json: serde_json::Value = serde_json::from_str(text).unwrap();
    let has = |list: &serde_json::Value, wanted: &dyn Fn(&str) -> bool| {
        list.as_array().is_some_and(|list| list.iter().any(|entry| wanted(entry.as_str().unwrap())))
    };
    let held = |name: &str| caps.names().any(|held| name == format!("CAP_{held}"));
    let mut rules = Vec::new();
    for entry in json["syscalls"].as_array().unwrap() {
        let (includes, excludes) = (&entry["includes"], &entry["excludes"]);
        let elsewhere = includes["arches"].is_array() && !has(&includes["arches"], &|arch| arch == "amd64");
        let lacking = has(&includes["caps"], &|cap| !held(cap));
        if elsewhere || lacking || has(&excludes["caps"], &held) {
            continue;
        }
        let conditions = entry["args"].as_array().into_iter().flatten().map(|argument| {
            let number = |field: &str| argument[field].as_u64().unwrap();
            let (operator, value) = match argument["op"].as_str().unwrap() {
                "SCMP_CMP_EQ" => (Operator::Equal, number("value")),
                "SCMP_CMP_LT" => (Operator::Less, number("value")),
                "SCMP_CMP_MASKED_EQ" => (Operator::MaskedEqual(number("value")), number("valueTwo")),
                other => panic!("{other}"),
            };
            Condition { argument: number("index") as u8, operator, value }
        });
        let conditions: Vec<_> = conditions.collect();
        let action = if entry["action"] == "SCMP_ACT_ALLOW" {
            Action::ALLOW
        } else {
            Action::errno(entry["errnoRet"].as_u64().unwrap() as u16)
        };
        for name in entry["names"].as_array().unwrap() {
            let name = name.as_str().unwrap().to_owned();
            rules.push(Plain { name, action, conditions: conditions.clone() });
        }
    }
    PlainProfile { default: Action::errno(1), compat: true, rules }
}

fn cap_sets() -> [CapSet; 6] {
    [
        CapSet::NONE,
        CapSet::DOCKER,
        CapSet::DOCKER | CapSet::SYS_ADMIN,
        CapSet::SYS_PTRACE | CapSet::SYS_TIME | CapSet::SYS_NICE | CapSet::BPF | CapSet::DAC_READ_SEARCH,
        CapSet::all(40) & !CapSet::SYS_ADMIN,
        CapSet::all(40),
    ]
}

#[test]
fn dockers_profile_decides_every_call_as_its_rules_say() {
    for caps in cap_sets() {
        let filter = compile(&Profile::docker(), caps, NEW).unwrap();
        check(&plain(DOCKER_JSON, caps), &filter.program, VALUES);
    }
}

#[test]
fn dockers_profile_is_the_same_from_json() {
    let json = Profile::parse(DOCKER_JSON).unwrap();
    for caps in cap_sets() {
        for kernel in [Kernel(4, 7), Kernel(4, 8), NEW] {
            let expect = compile(&Profile::docker(), caps, kernel).unwrap();
            assert_eq!(compile(&json, caps, kernel).unwrap(), expect, "{caps:?} {kernel:?}");
        }
    }
}

#[test]
fn well_known_calls_get_dockers_answers() {
    let answer = |caps, kernel, name, first| {
        let program = compile(&Profile::docker(), caps, kernel).unwrap().program;
        let number = syscalls::number(name).unwrap();
        interpret(&program, Call { arch: X86_64, number, args: [first, 0, 0, 0, 0, 0] }).action
    };
    let [allow, eperm, enosys] = [Action::ALLOW, Action::errno(1), Action::errno(38)].map(|action| action.0);
    for (name, first, expect) in [
        ("read", 0, allow),
        ("execve", 0, allow),
        ("ptrace", 0, allow),
        ("chroot", 0, allow),
        ("mount", 0, eperm),
        ("unshare", 0, eperm),
        ("keyctl", 0, eperm),
        ("io_uring_setup", 0, eperm),
        ("bpf", 0, eperm),
        ("clone", 0x0001_0f00, allow),
        ("clone", 0x1000_0000, eperm),
        ("clone3", 0, enosys),
        ("socket", 2, allow),
        ("socket", 38, eperm),
        ("socket", 40, eperm),
        ("personality", 0xffff_ffff, allow),
        ("personality", 0x0004_0000, eperm),
    ] {
        assert_eq!(answer(CapSet::DOCKER, NEW, name, first), expect, "{name}({first:#x})");
    }
    assert_eq!(answer(CapSet::DOCKER | CapSet::SYS_ADMIN, NEW, "clone3", 0), allow);
    assert_eq!(answer(CapSet::DOCKER | CapSet::SYS_ADMIN, NEW, "clone", 0x1000_0000), allow);
    assert_eq!(answer(CapSet::DOCKER, Kernel(4, 7), "ptrace", 0), eperm);
    assert_eq!(answer(CapSet::SYS_PTRACE, Kernel(4, 7), "ptrace", 0), allow);
}

#[test]
fn dockers_profile_takes_few_instructions_per_decision() {
    let program = compile(&Profile::docker(), CapSet::DOCKER, NEW).unwrap().program;
    assert!(program.len() < 300, "{} instructions", program.len());
    for number in 0..NUMBERS as u32 {
        let outcome = interpret(&program, Call { arch: X86_64, number, args: [0; 6] });
        assert!(outcome.steps <= if outcome.looked { 17 } else { 11 }, "{number}: {outcome:?}");
    }
}

/// Marsaglia's xorshift64: the same profiles in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn pick<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())]
    }

    fn condition(&mut self) -> Condition {
        let masks = [0, 1, 0xff, 0x7e02_0000, 0xffff_0000_0000, 1 << 32, 0xff_0000_00ff, u64::MAX];
        let operator = match self.below(7) {
            0 => Operator::Equal,
            1 => Operator::NotEqual,
            2 => Operator::Less,
            3 => Operator::LessOrEqual,
            4 => Operator::Greater,
            5 => Operator::GreaterOrEqual,
            _ => Operator::MaskedEqual(self.pick(&masks)),
        };
        Condition { argument: self.pick(&[0, 0, 0, 1, 2, 5]), operator, value: self.pick(VALUES) }
    }

    fn profile(&mut self, rules: usize) -> PlainProfile {
        // Few names, so that rules meet; the last two exist on i386 only, or nowhere.
        const NAMES: &[&str] = &[
            "read",
            "write",
            "open",
            "close",
            "socket",
            "bind",
            "accept",
            "sendmmsg",
            "shmctl",
            "personality",
            "clone",
            "listns",
            "stime",
            "no_such_call",
            "send",
            "semop",
        ];
        let actions = [
            Action::ALLOW,
            Action::LOG,
            Action::errno(1),
            Action::errno(4095),
            Action::KILL_PROCESS,
            Action::KILL_THREAD,
            Action::TRAP,
            Action::trace(7),
        ];
        let default = self.pick(&actions);
        let compat = self.below(3) > 0;
        let rules = (0..rules).map(|_| Plain {
            name: self.pick(NAMES).to_owned(),
            action: self.pick(&actions),
            conditions: (0..self.pick(&[0, 1, 1, 1, 1, 2, 3])).map(|_| self.condition()).collect(),
        });
        PlainProfile { default, compat, rules: rules.collect() }
    }
}

#[test]
fn random_profiles_decide_as_their_rules_say() {
    let mut random = Random(0x5eed_cafe_f00d_0001);
    for round in 0..150 {
        let profile = random.profile(round % 40);
        check(&profile, &profile.compile(), VALUES);
    }
}

#[test]
fn jumps_reach_over_more_than_255_instructions() {
    let mut random = Random(0x5eed_cafe_f00d_0002);
    let mut profile = random.profile(0);
    profile.default = Action::errno(1);
    profile.compat = true;
    for index in 0..300 {
        // Two arguments, so that each rule takes its own instructions.
        let condition = |argument, value| Condition { argument, operator: Operator::Equal, value };
        let name = ["read", "socket", "clone"][index % 3].to_owned();
        let value = VALUES[index % VALUES.len()];
        let conditions = vec![condition(0, value), condition(1, value)];
        profile.rules.push(Plain { name, action: Action::errno(index as u16 + 2), conditions });
    }
    let program = profile.compile();
    assert!(program.iter().any(|instruction| instruction.code == bpf::JUMP));
    check(&profile, &program, VALUES);
}

fn with_rule(rule: &str) -> String {
    format!(
        r#"{{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{{"names": ["read"], "action": "SCMP_ACT_ALLOW"}}, {rule}]}}"#
    )
}

#[test]
fn a_bad_profile_is_refused_with_the_place() {
    let two = |rule: &str, message: &str| (with_rule(rule), message.to_owned());
    for (text, message) in [
        two(r#"{"names": ["a"], "action": "ALLOW"}"#, r#"syscalls[1].action: unknown action "ALLOW""#),
        two(
            r#"{"names": ["a"], "action": "SCMP_ACT_NOTIFY"}"#,
            "syscalls[1].action: SCMP_ACT_NOTIFY is not supported",
        ),
        two(
            r#"{"names": ["a"], "action": "SCMP_ACT_ERRNO", "errnoRet": 4096}"#,
            "syscalls[1].action: errno 4096 is greater than 4095",
        ),
        two(
            r#"{"names": ["a"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 1, "op": "EQ"}]}"#,
            r#"syscalls[1].args[0].op: unknown operator "EQ""#,
        ),
        two(
            r#"{"names": ["a"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 6, "value": 1, "op": "SCMP_CMP_EQ"}]}"#,
            "syscalls[1].args[0].index: a system call has arguments 0 to 5",
        ),
        two(r#"{"action": "SCMP_ACT_ALLOW"}"#, "syscalls[1].names: missing"),
        two(
            r#"{"name": "a", "names": ["b"], "action": "SCMP_ACT_ALLOW"}"#,
            "syscalls[1].name: not possible together with names",
        ),
        two(
            r#"{"names": ["a"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "new"}}"#,
            r#"syscalls[1].includes.minKernel: "new" is no kernel version"#,
        ),
        (r#"{"defaultAction": "DENY"}"#.into(), r#"defaultAction: unknown action "DENY""#.into()),
        (
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "flags": ["FAST"]}"#.into(),
            r#"flags: unknown flag "FAST""#.into(),
        ),
        (
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86"],
                "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": []}]}"#
                .into(),
            "architectures: not possible together with archMap".into(),
        ),
        ("{}".into(), "missing field `defaultAction` at line 1 column 2".into()),
        (String::new(), "EOF while parsing a value at line 1 column 0".into()),
    ] {
        let error = Profile::parse(&text).unwrap_err().to_string();
        assert_eq!(error, format!("seccomp profile: {message}"));
    }
}

#[test]
fn a_profile_beyond_the_kernels_limit_is_refused() {
    let rules: Vec<String> = (0..1500)
        .map(|value| {
            format!(
                r#"{{"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [
                    {{"index": 0, "value": {value}, "op": "SCMP_CMP_EQ"}},
                    {{"index": 1, "value": {value}, "op": "SCMP_CMP_EQ"}}]}}"#
            )
        })
        .collect();
    let profile = Profile::parse(&with_rule(&rules.join(","))).unwrap();
    let error = compile(&profile, CapSet::DOCKER, NEW);
    // `read` is allowed without conditions by the first rule, which makes the others void.
    assert!(error.is_ok());
    let text = with_rule(&rules.join(",")).replacen(r#""read""#, r#""write""#, 1);
    let error = compile(&Profile::parse(&text).unwrap(), CapSet::DOCKER, NEW).unwrap_err().to_string();
    assert!(error.starts_with("seccomp profile: needs 12"), "{error}");
}

#[test]
fn what_a_profile_leaves_open_is_as_in_runc() {
    let filter = |text: &str| compile(&Profile::parse(text).unwrap(), CapSet::DOCKER, NEW).unwrap();
    let read =
        |filter: &Filter, arch| interpret(&filter.program, Call { arch, number: 3, args: [0; 6] }).action;
    let bare = filter(r#"{"defaultAction": "SCMP_ACT_ERRNO"}"#);
    assert_eq!(read(&bare, X86_64), Action::errno(1).0);
    assert_eq!(read(&bare, I386), Action::KILL_PROCESS.0);
    assert_eq!(bare.flags, Flags { spec_allow: true, ..Flags::NONE });
    let two = filter(
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
            "flags": ["SECCOMP_FILTER_FLAG_LOG"]}"#,
    );
    assert_eq!(read(&two, I386), Action::ALLOW.0);
    assert_eq!(two.flags, Flags { log: true, ..Flags::NONE });
}

fn bundle(text: &str) -> Result<Filter, Error> {
    compile_spec(&serde_json::from_str(text).expect(text))
}

/// What becomes of `getcwd` (79 for x86-64, 183 for i386) by the filter that a bundle describes.
fn getcwd(filter: &Filter, arch: u32) -> u32 {
    let number = if arch == I386 { 183 } else { 79 };
    interpret(&filter.program, Call { arch, number, args: [7, 0, 0, 0, 0, 0] }).action
}

#[test]
fn a_bundles_filter_does_what_its_words_say() {
    let check = |rule: &str, expect: u32| {
        let text = format!(
            r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{{"names":["no_such_call","getcwd"],{rule}}}]}}"#
        );
        assert_eq!(getcwd(&bundle(&text).expect(rule), X86_64), expect, "{rule}");
    };
    check(r#""action":"SCMP_ACT_ERRNO""#, 0x0005_0001);
    check(r#""action":"SCMP_ACT_ERRNO","errnoRet":38"#, 0x0005_0026);
    check(r#""action":"SCMP_ACT_ERRNO","errnoRet":0"#, 0x0005_0000);
    check(r#""action":"SCMP_ACT_TRACE","errnoRet":7"#, 0x7ff0_0007);
    check(r#""action":"SCMP_ACT_TRAP""#, 0x0003_0000);
    check(r#""action":"SCMP_ACT_KILL""#, 0);
    check(r#""action":"SCMP_ACT_KILL_THREAD""#, 0);
    check(r#""action":"SCMP_ACT_KILL_PROCESS""#, 0x8000_0000);
    check(r#""action":"SCMP_ACT_LOG""#, 0x7ffc_0000);
    check(r#""action":"SCMP_ACT_NOTIFY""#, 0x7fc0_0000);
    let equal = r#""args":[{"index":0,"value":7,"op":"SCMP_CMP_EQ"}]"#;
    check(&format!(r#""action":"SCMP_ACT_NOTIFY",{equal}"#), 0x7fc0_0000);
    let masked = r#""args":[{"index":0,"value":6,"valueTwo":6,"op":"SCMP_CMP_MASKED_EQ"}]"#;
    check(&format!(r#""action":"SCMP_ACT_LOG",{masked}"#), 0x7ffc_0000);
    let greater = r#""args":[{"index":0,"value":7,"op":"SCMP_CMP_GT"}]"#;
    check(&format!(r#""action":"SCMP_ACT_LOG",{greater}"#), 0x7fff_0000);
}

#[test]
fn a_listener_is_asked_for_where_a_call_is_handed_on() {
    let flags =
        |rest: &str| bundle(&format!(r#"{{"defaultAction":"SCMP_ACT_ALLOW"{rest}}}"#)).expect(rest).flags;
    let notify = r#","syscalls":[{"names":["mknod"],"action":"SCMP_ACT_NOTIFY"}]"#;
    assert!(flags(notify).listener);
    assert!(flags(notify).spec_allow);
    // A call that this machine does not have hands nothing on.
    assert!(!flags(r#","syscalls":[{"names":["no_such_call"],"action":"SCMP_ACT_NOTIFY"}]"#).listener);
    assert!(!flags(r#","listenerPath":"/run/agent""#).listener);
    let waiting = flags(&format!(r#"{notify},"flags":["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]"#));
    assert!(waiting.wait_killable && waiting.listener && !waiting.spec_allow);
    let all: Vec<String> = words::flags().map(|flag| format!("{flag:?}")).collect();
    let all = flags(&format!(r#","flags":[{}]"#, all.join(",")));
    assert_eq!(all, Flags { log: true, spec_allow: true, listener: false, wait_killable: true });
    assert_eq!(flags(r#","flags":[]"#), Flags::NONE);
}

#[test]
fn a_bundles_instruction_sets_may_be_any_that_there_are() {
    let filter =
        |archs: &str| bundle(&format!(r#"{{"defaultAction":"SCMP_ACT_ALLOW","architectures":[{archs}]}}"#));
    let all: Vec<String> = words::architectures().map(|arch| format!("{arch:?}")).collect();
    let all = filter(&all.join(",")).expect("all are known");
    assert_eq!((getcwd(&all, X86_64), getcwd(&all, I386)), (Action::ALLOW.0, Action::ALLOW.0));
    let others = filter(r#""SCMP_ARCH_AARCH64","SCMP_ARCH_S390X""#).expect("both are known");
    assert_eq!((getcwd(&others, X86_64), getcwd(&others, I386)), (Action::ALLOW.0, Action::KILL_PROCESS.0));
}

#[test]
fn x32_is_filtered_as_x86_64_where_it_is_admitted() {
    let filter = |archs: &str| {
        let rules = r#"{"names":["getcwd"],"action":"SCMP_ACT_LOG"},
            {"names":["execve"],"action":"SCMP_ACT_TRAP","args":[{"index":0,"value":7,"op":"SCMP_CMP_EQ"}]},
            {"names":["pwritev2"],"action":"SCMP_ACT_KILL"}"#;
        let default = r#""defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":5"#;
        bundle(&format!(r#"{{{default},"architectures":[{archs}],"syscalls":[{rules}]}}"#)).expect(archs)
    };
    let x32 = |filter: &Filter, number: u32, argument: u64| {
        let number = 0x4000_0000 | number;
        interpret(&filter.program, Call { arch: X86_64, number, args: [argument, 0, 0, 0, 0, 0] }).action
    };
    let with = filter(r#""SCMP_ARCH_X86_64","SCMP_ARCH_X32""#);
    let eio = Action::errno(5).0;
    for (number, argument, expect) in [
        (79, 0, Action::LOG.0),
        (80, 0, eio),
        (59, 7, Action::TRAP.0),
        (520, 7, Action::TRAP.0),
        (520, 8, eio),
        (512, 0, eio),
        (547, 0, Action::KILL_THREAD.0),
        (548, 0, eio),
        (0x3fff_ffff, 0, eio),
        (0xbfff_ffff, 0, eio),
    ] {
        assert_eq!(x32(&with, number, argument), expect, "{number}");
    }
    assert_eq!(getcwd(&with, X86_64), Action::LOG.0);
    // Elsewhere as by a kernel that does not have it.
    let without = filter(r#""SCMP_ARCH_X86_64""#);
    assert_eq!((x32(&without, 79, 0), x32(&without, 547, 0)), (Action::errno(38).0, Action::errno(38).0));
}

#[test]
fn a_bundles_bad_filter_is_refused_with_the_place() {
    let check = |text: &str, message: &str| {
        let error = bundle(text).expect_err(text).to_string();
        assert_eq!(error, format!("seccomp profile: {message}"));
    };
    let rule = |rule: &str| format!(r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{rule}]}}"#);
    check("{}", r#"defaultAction: unknown action """#);
    check(
        r#"{"defaultAction":"SCMP_ACT_KILL","defaultErrnoRet":1}"#,
        "defaultAction: SCMP_ACT_KILL takes no errno",
    );
    check(
        r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["x86_64"]}"#,
        r#"architectures: unknown architecture "x86_64""#,
    );
    check(r#"{"defaultAction":"SCMP_ACT_ALLOW","flags":["LOG"]}"#, r#"flags: unknown flag "LOG""#);
    check(&rule(r#"{"action":"SCMP_ACT_LOG"}"#), "syscalls[0].names: empty");
    check(
        &rule(r#"{"names":["a"],"action":"SCMP_ACT_TRAP","errnoRet":0}"#),
        "syscalls[0].action: SCMP_ACT_TRAP takes no errno",
    );
    check(
        &rule(r#"{"names":["a"],"action":"SCMP_ACT_LOG","args":[{"index":6,"op":"SCMP_CMP_EQ"}]}"#),
        "syscalls[0].args[0].index: a system call has arguments 0 to 5",
    );
    check(
        &rule(r#"{"names":["a"],"action":"SCMP_ACT_LOG","args":[{"op":"=="}]}"#),
        r#"syscalls[0].args[0].op: unknown operator "==""#,
    );
}

#[test]
fn kernel_versions_are_read_from_releases() {
    for (release, expect) in [
        ("6.18.44-fc", Some(Kernel(6, 18))),
        ("4.8", Some(Kernel(4, 8))),
        ("6.1-rc3", Some(Kernel(6, 1))),
        ("6", None),
        ("6.x", None),
        ("", None),
    ] {
        assert_eq!(Kernel::parse(release), expect, "{release:?}");
    }
    assert!(Kernel(6, 1) > Kernel(5, 19));
}

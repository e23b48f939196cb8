use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use skiff_runtime::options::{Propagation, Resources, Seccomp, Ulimit};

use super::*;
use crate::flags::{CREATE, RUN};

/// Parses a line of words between spaces.
fn line(text: &str) -> Result<Parsed, Failure> {
    parse(&RUN, &mut words(text).into_iter())
}

fn args(text: &str) -> Args {
    match line(text) {
        Ok(Parsed::Run(args)) => *args,
        other => panic!("{text}: {other:?}"),
    }
}

/// Checks one aspect of what `text` means.
#[track_caller]
fn check<T: PartialEq + std::fmt::Debug>(text: &str, aspect: impl Fn(&Args) -> T, expected: T) {
    assert_eq!(aspect(&args(text)), expected, "{text}");
}

/// Checks that `text` is refused in these words.
#[track_caller]
fn refused(text: &str, expected: &str) {
    let failure = line(text).expect_err(text);
    assert_eq!((failure.message.as_str(), failure.code), (expected, 125), "{text}");
}

fn words(text: &str) -> Vec<OsString> {
    text.split(' ').filter(|word| !word.is_empty()).map(OsString::from).collect()
}

#[test]
fn options_end_at_the_image() {
    let check = |text: &str, command: &str| {
        let args = args(text);
        assert_eq!((args.spec.image.as_str(), args.spec.command), ("host", words(command)), "{text}");
    };
    check("host", "");
    check("host ls", "ls");
    check("host ls -l --rm", "ls -l --rm");
    check("-t host ls -t", "ls -t");
    check("-- host ls", "ls");
    check("host -- ls -l", "ls -l");
    check("--profile host -- ls -lR /usr/share", "ls -lR /usr/share");
    check("host -- -- ls", "-- ls");
    check("host ls -- x", "ls -- x");
    check("host --help", "--help");
}

#[test]
fn flags_before_double_dash_only() {
    let args = args("-- -t");
    assert_eq!((args.spec.image.as_str(), args.spec.options.tty), ("-t", false));
}

#[test]
fn values_are_attached_or_follow() {
    let name = |a: &Args| a.spec.options.name.clone();
    check("--name=web host", name, Some("web".into()));
    check("--name web host", name, Some("web".into()));
    check("--name web --name db host", name, Some("db".into()));
    let memory = |a: &Args| a.spec.options.resources.memory_bytes;
    for text in [
        "-m512m host",
        "-m 512m host",
        "-m=512m host",
        "--memory=512m host",
        "-itm512m host",
        "-tm 512m host",
    ] {
        check(text, memory, Some(512 << 20));
    }
    check("-m 1g -m 0 host", memory, None);
}

#[test]
fn switches_cluster_and_can_be_turned_off() {
    let it = |a: &Args| (a.spec.options.interactive, a.spec.options.tty);
    check("host", it, (false, false));
    check("-i -t host", it, (true, true));
    check("-it host", it, (true, true));
    check("-it=false host", it, (true, false));
    check("--tty --interactive=0 host", it, (false, true));
    check("--tty --tty=false host", it, (false, false));
    check("--rm=false host", it, (false, false));
    check("host", |a| a.sig_proxy, true);
    check("--sig-proxy=false host", |a| a.sig_proxy, false);
}

#[test]
fn variables_keep_their_order_and_bytes() {
    check("-eA=1 -e B=2 --env=C=3 -e=D=4 host", |a| a.spec.env.clone(), words("A=1 B=2 C=3 D=4"));
    check("-e SKIFF_TEST_NOT_SET_ANYWHERE host", |a| a.spec.env.clone(), vec![]);
    let raw = OsString::from_vec(b"A=\xff".to_vec());
    let words: [OsString; 4] = ["-e".into(), raw.clone(), "host".into(), raw.clone()];
    let Ok(Parsed::Run(parsed)) = parse(&RUN, &mut words.into_iter()) else { panic!() };
    assert_eq!((parsed.spec.env, parsed.spec.command), (vec![raw.clone()], vec![raw]));
}

#[test]
fn the_profile_takes_its_file_by_an_equals_sign_only() {
    check("host", |a| a.profile.clone(), None);
    check("--profile host", |a| a.profile.clone(), Some(Report::Text));
    check("--profile=out.json host", |a| a.profile.clone(), Some(Report::File("out.json".into())));
}

#[test]
fn lifecycle_flags() {
    check("host", |a| (a.spec.stop_signal, a.spec.stop_timeout_s, a.spec.timeout_s), (None, Some(10), None));
    check("--stop-signal INT host", |a| a.spec.stop_signal, Some(2));
    check("--stop-timeout 3 host", |a| a.spec.stop_timeout_s, Some(3));
    check("--stop-timeout -1 host", |a| a.spec.stop_timeout_s, None);
    check("--timeout 5 host", |a| a.spec.timeout_s, Some(5));
    check("--timeout 0 host", |a| a.spec.timeout_s, None);
    check("--cidfile /tmp/x host", |a| a.cidfile.clone(), Some("/tmp/x".into()));
    check("--pull never host", |a| a.spec.image.clone(), "host".into());
    check(
        "-l a=b --label c host",
        |a| a.spec.options.labels.clone(),
        vec![("a".into(), "b".into()), ("c".into(), String::new())],
    );
}

#[test]
fn process_flags() {
    check("-u 1000:10 host", |a| a.spec.user.clone(), Some("1000:10".into()));
    check("-w /srv host", |a| a.spec.options.cwd.clone(), "/srv".into());
    check(
        "--group-add audio --group-add 7 host",
        |a| a.spec.options.group_add.clone(),
        vec!["audio".into(), "7".into()],
    );
    check("--entrypoint /bin/sh host", |a| a.spec.entrypoint.clone(), Some("/bin/sh".into()));
    check("--entrypoint= host", |a| a.spec.entrypoint.clone(), Some("".into()));
    check("--init host", |a| a.spec.options.init, true);
    check(
        "-h web --domainname lan host",
        |a| (a.spec.options.hostname.clone(), a.spec.options.domainname.clone()),
        (Some("web".into()), Some("lan".into())),
    );
}

#[test]
fn limits_reach_the_resources() {
    let text = "-m 512m --memory-swap 1g --memory-reservation 256m -c 512 --cpu-period 50000 --cpu-quota 25000 \
                --cpuset-cpus 0-1 --cpuset-mems 0 --pids-limit 100 --blkio-weight 300 host";
    let expected = Resources {
        memory_bytes: Some(512 << 20),
        memory_swap_bytes: Some(1 << 30),
        memory_reservation_bytes: Some(256 << 20),
        nano_cpus: None,
        cpu_shares: Some(512),
        cpu_period_us: Some(50_000),
        cpu_quota_us: Some(25_000),
        cpuset_cpus: Some("0-1".into()),
        cpuset_mems: Some("0".into()),
        pids_limit: Some(100),
        blkio_weight: Some(300),
    };
    check(text, |a| a.spec.options.resources.clone(), expected);
    check("--cpus 1.5 host", |a| a.spec.options.resources.nano_cpus, Some(1_500_000_000));
    check("-m 8m --memory-swap -1 host", |a| a.spec.options.resources.memory_swap_bytes, Some(-1));
    check("--oom-score-adj -500 host", |a| a.spec.options.oom_score_adj, Some(-500));
    check("--shm-size 1g host", |a| a.spec.options.shm_size_bytes, 1 << 30);
    check("--shm-size 0 host", |a| a.spec.options.shm_size_bytes, 64 << 20);
    check(
        "--ulimit nofile=1 --ulimit core=0 --ulimit nofile=2:3 host",
        |a| a.spec.options.ulimits.clone(),
        vec![
            Ulimit { name: "core".into(), soft: 0, hard: 0 },
            Ulimit { name: "nofile".into(), soft: 2, hard: 3 },
        ],
    );
}

#[test]
fn security_flags() {
    check(
        "--cap-add NET_ADMIN --cap-drop all host",
        |a| (a.spec.options.cap_add.clone(), a.spec.options.cap_drop.clone()),
        (vec!["NET_ADMIN".into()], vec!["all".into()]),
    );
    check(
        "--security-opt seccomp=unconfined --privileged host",
        |a| (a.spec.options.seccomp.clone(), a.spec.options.privileged),
        (Seccomp::Unconfined, true),
    );
    check(
        "--sysctl net.core.somaxconn=9 host",
        |a| a.spec.options.sysctls.clone(),
        vec![("net.core.somaxconn".into(), "9".into())],
    );
    check("--read-only host", |a| a.spec.options.read_only, true);
}

#[test]
fn namespaces_are_private_unless_asked() {
    let all = |a: &Args| {
        [
            a.spec.options.pid,
            a.spec.options.ipc,
            a.spec.options.uts,
            a.spec.options.cgroupns,
            a.spec.options.network,
        ]
    };
    check("host", all, [Namespace::Private; 5]);
    check("--pid host --ipc=host --uts host --cgroupns host --network host host", all, [Namespace::Host; 5]);
    check("--net host --net none --ipc private host", all, [Namespace::Private; 5]);
}

#[test]
fn mounts_keep_their_order() {
    let expected = vec![
        Mount::Tmpfs { target: "/t".into(), options: ["nosuid", "nodev", "noexec"].map(String::from).into() },
        Mount::Bind {
            source: "/a".into(),
            target: "/b".into(),
            read_only: true,
            recursive: true,
            propagation: Propagation::Private,
            create_source: true,
        },
        Mount::Volume { target: "/c".into(), read_only: false },
    ];
    check("--tmpfs /t -v /a:/b:ro --mount dst=/c host", |a| a.spec.options.mounts.clone(), expected);
}

#[test]
fn what_is_unknown_is_named() {
    refused("", "no image given, see 'skiff run --help'");
    refused("-t", "no image given, see 'skiff run --help'");
    refused("--", "no image given, see 'skiff run --help'");
    refused("--foo host", "unknown flag: --foo, see 'skiff run --help'");
    refused("--foo=bar host", "unknown flag: --foo, see 'skiff run --help'");
    refused("--memor 1g host", "unknown flag: --memor, see 'skiff run --help'");
    refused("-Z host", "unknown flag: -Z, see 'skiff run --help'");
    refused("-iZt host", "unknown flag: 'Z' in -iZt, see 'skiff run --help'");
    refused("--memory", "--memory needs a value, see 'skiff run --help'");
    refused("-itm", "--memory needs a value, see 'skiff run --help'");
}

#[test]
fn lives_of_their_own_are_described() {
    let args = args(
        "-d --restart on-failure:3 --health-http 80/up --health-retries 5 --log-opt max-size=1m --pool 0 host",
    );
    let spec = &args.spec;
    assert!(args.detach && !args.pool && !spec.auto_remove);
    assert_eq!(spec.restart, Restart::OnFailure(Some(3)));
    assert_eq!(spec.health.test, Some(HealthTest::Http { port: 80, path: "/up".into() }));
    assert_eq!((spec.health.retries, spec.log.max_bytes), (Some(5), 1 << 20));
    check("--no-healthcheck host", |a| a.spec.health.test.clone(), Some(HealthTest::None));
    check("--rm --rm=false host", |a| a.spec.auto_remove, false);
    refused("--rm --restart always host", "--rm does not go with --restart");
    refused(
        "--no-healthcheck --health-tcp 80 host",
        "--no-healthcheck does not go with other flags of health",
    );
    refused(
        "--health-cmd true --health-tcp 80 host",
        "invalid value '80' for --health-tcp: there is another check already",
    );
    check("--health-tcp 80 --health-tcp 81 host", |a| a.spec.health.test.clone(), Some(HealthTest::Tcp(81)));
    for driver in ["none", "journald"] {
        refused(
            &format!("--log-opt max-file=2 --log-driver {driver} host"),
            "--log-opt max-size and max-file are for --log-driver file alone",
        );
    }
    refused("-d --profile host", "--profile does not go with --detach");
    refused("--health-tcp 0 host", "invalid value '0' for --health-tcp: not a port, 1 to 65535");
}

#[test]
fn what_belongs_to_waiting_is_not_for_create() {
    let create = |text: &str| parse(&CREATE, &mut words(text).into_iter());
    assert!(matches!(create("--rm --name web host true"), Ok(Parsed::Run(_))));
    for flag in ["-d", "--sig-proxy", "--pool=0", "--profile"] {
        assert!(create(&format!("{flag} host true")).is_err(), "{flag}");
    }
}

#[test]
fn every_flag_of_docker_is_taken_or_refused_by_name() {
    refused("-p 80:80 host", "--publish is not supported yet");
    refused("-itP host", "--publish-all is not supported yet");
    for (long, short) in RUN.unsupported {
        refused(&format!("--{long} x host"), &format!("--{long} is not supported yet"));
        if let Some(short) = short {
            refused(&format!("-{short} host"), &format!("--{long} is not supported yet"));
        }
    }
}

#[test]
fn bad_values_name_flag_value_and_reason() {
    refused("-m 5x host", "invalid value '5x' for --memory: not a size, such as 512m or 1.5g");
    refused("--tty=maybe host", "invalid value 'maybe' for --tty: neither true nor false");
    refused("--name a host", "invalid value 'a' for --name: a name is [a-zA-Z0-9][a-zA-Z0-9_.-]+");
    refused(
        "--network bridge host",
        "invalid value 'bridge' for --network: only 'none' and 'host' are supported yet",
    );
    refused("--net x host", "invalid value 'x' for --network: only 'none' and 'host' are supported yet");
    refused("--pull newer host", "invalid value 'newer' for --pull: neither always, missing nor never");
    refused("-w srv host", "invalid value 'srv' for --workdir: not an absolute path");
    refused("--stop-signal FOO host", "invalid value 'FOO' for --stop-signal: no such signal");
    refused(
        "--oom-score-adj 1001 host",
        "invalid value '1001' for --oom-score-adj: not between -1000 and 1000",
    );
    refused("-e =x host", "invalid value '=x' for --env: a variable needs a name");
    refused(
        "--env-file /nowhere host",
        "invalid value '/nowhere' for --env-file: read the file: no such file or directory",
    );
}

#[test]
fn flags_that_contradict_each_other_are_refused() {
    refused("-m 5m host", "--memory is below the minimum of 6m");
    refused("--memory-swap 1g host", "--memory-swap needs --memory");
    refused("-m 1g --memory-swap 512m host", "--memory-swap is below --memory, which it includes");
    refused("--memory-reservation 1m host", "--memory-reservation is below the minimum of 6m");
    refused("-m 1g --memory-reservation 2g host", "--memory-reservation is above --memory");
    refused("--cpus 1 --cpu-quota 5000 host", "--cpus does not go with --cpu-period or --cpu-quota");
    refused("--cpus 1 --cpu-period 5000 host", "--cpus does not go with --cpu-period or --cpu-quota");
    refused("--uts host -h x host", "--hostname and --domainname do not go with --uts host");
    refused("--tmpfs /a -v /b:/a host", "two mounts have the target /a");
    refused("-v /x:/a/ -v /b:/c/../a host", "two mounts have the target /a");
}

#[test]
fn help_wins_before_the_image() {
    assert!(matches!(line("--help"), Ok(Parsed::Help)));
    assert!(matches!(line("-it --help host"), Ok(Parsed::Help)));
}

//! What templates print, and how they fail. All but what is marked as ours is what docker's client prints.

use serde_json::{Value, json};

use super::Template;

/// A document like `docker inspect`'s.
fn document() -> Value {
    json!({
        "Id": "2a2746dabd61", "Name": "/web", "Path": "sleep", "Args": ["1000"], "Names": "web",
        "Created": "2026-11-22T02:27:50.153016819Z", "Labels": "a=b,com.x/y=1,2", "Ratio": 0.5, "Huge": 1e21,
        "State": {"Status": "running", "Running": true, "Paused": false, "Pid": 125, "ExitCode": 0, "Health": null},
        "Config": {"Env": ["PATH=/bin", "A=1"], "Labels": {"a": "b", "com.x/y": "1,2"}, "Cmd": ["sleep", "1000"]},
        "HostConfig": {"Binds": null, "NanoCpus": 0, "Privileged": false},
        "Mounts": [{"Destination": "/data", "Type": "volume"}],
        "NetworkSettings": {"Ports": {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}], "81/udp": null}},
    })
}

fn render(template: &str) -> Result<String, String> {
    let labels = json!({"a": "b", "com.x/y": "1,2"});
    let rendered = Template::parse(template).and_then(|template| template.render(&document(), &labels));
    rendered.map_err(|error| error.to_string())
}

#[track_caller]
fn check(cases: &[(&str, &str)]) {
    for (template, expected) in cases {
        assert_eq!(render(template).as_deref(), Ok(*expected), "{template}");
    }
}

/// Each fails with `template: :` and the words.
#[track_caller]
fn refuse(cases: &[(&str, &str)]) {
    for (template, expected) in cases {
        assert_eq!(render(template), Err(format!("template: :{expected}")), "{template}");
    }
}

#[test]
fn fields_print_as_go_prints_them() {
    check(&[
        ("", ""),
        ("plain { } }} text", "plain { } }} text"),
        ("{{.Id}}|{{.State.Status}}", "2a2746dabd61|running"),
        ("{{.State.Running}} {{.State.Pid}} {{.Ratio}} {{.Huge}}", "true 125 0.5 1e+21"),
        ("{{.Args}} {{.Config.Cmd}} {{.Config.Labels}}", "[1000] [sleep 1000] map[a:b com.x/y:1,2]"),
        ("{{.State.Health}}", "<nil>"),
        ("{{.Config.Labels.a}} {{.Config.Labels.nope}}", "b <no value>"),
        ("{{ .Id }}{{\t.Id\n}}", "2a2746dabd612a2746dabd61"),
        ("{{$.Id}} {{$.State.Pid}}", "2a2746dabd61 125"),
        ("{{(index .Mounts 0).Destination}}", "/data"),
        ("{{(index (index .NetworkSettings.Ports \"80/tcp\") 0).HostPort}}", "8080"),
        ("{{.Label \"a\"}}|{{.Label \"nope\"}}|{{\"a\" | .Label}}", "b||b"),
        ("{{with .State}}{{.Status}}{{$.Name}}{{end}}", "running/web"),
        ("ä{{.Name}}ö", "ä/webö"),
    ]);
}

#[test]
fn literals_are_go_s() {
    check(&[
        (r#"{{"a\tb\x41\u00e4\"\101"}}"#, "a\tbAä\"A"),
        ("{{`raw\\n}}`}}", "raw\\n}}"),
        (
            "{{1.5}} {{0x10}} {{1e3}} {{true}} {{-3}} {{+4}} {{017}} {{0b11}} {{0o17}} {{1_000}}",
            "1.5 16 1000 true -3 4 15 3 15 1000",
        ),
        ("{{'a'}} {{'\\n'}} {{'ä'}}", "97 10 228"),
        ("{{1e21}} {{1e20}} {{0.0001}} {{0.00001}} {{.5}}", "1e+21 1e+20 0.0001 1e-05 0.5"),
    ]);
}

#[test]
fn white_space_is_trimmed_where_asked() {
    check(&[
        ("{{/* c */}}a {{- .Names -}} b", "awebb"),
        ("a \n\t{{- /* c */ -}} \n b", "ab"),
        ("{{.Names   -}}  x  {{-   .Names}}", "webxweb"),
        ("{{.Names -}} {{- .Names}}", "webweb"),
        ("{{-3}} {{- 3}}", "-33"),
    ]);
}

#[test]
fn conditions_follow_truth() {
    check(&[
        ("{{if .State.Running}}y{{else}}n{{end}}", "y"),
        ("{{if .State.Paused}}y{{end}}", ""),
        ("{{if .State.Health}}a{{else}}b{{end}}", "b"),
        ("{{if .State.ExitCode}}a{{else if .State.Pid}}b{{else}}c{{end}}", "b"),
        ("{{if false}}a{{else if false}}b{{else}}c{{end}}", "c"),
        ("{{with .State.Health}}x{{else with .State}}{{.Status}}{{end}}", "running"),
        ("{{with .HostConfig.Binds}}x{{else}}none{{end}}", "none"),
        ("{{with $x := .State.Pid}}{{$x}}{{.}}{{end}}", "125125"),
        ("{{if and .Id (not .State.Paused)}}y{{end}}", "y"),
        ("{{if or .State.Paused \"\"}}y{{else}}n{{end}}", "n"),
        // A condition may ask for what is not there.
        ("{{if .State.Nope}}y{{else}}n{{end}}{{if .Nope.More}}y{{else}}n{{end}}", "nn"),
        ("{{with .Nope}}y{{else}}n{{end}}{{if eq .State.Nope \"x\"}}y{{else}}n{{end}}", "nn"),
    ]);
}

#[test]
fn ranges_go_through_lists_maps_and_numbers() {
    check(&[
        ("{{range .Config.Env}}{{.}};{{end}}", "PATH=/bin;A=1;"),
        ("{{range $i, $e := .Config.Env}}{{$i}}={{$e}};{{end}}", "0=PATH=/bin;1=A=1;"),
        ("{{range $e := .Config.Env}}{{$e}};{{end}}", "PATH=/bin;A=1;"),
        ("{{range $k, $v := .Config.Labels}}{{$k}}={{$v}};{{end}}", "a=b;com.x/y=1,2;"),
        ("{{range .Mounts}}{{.Destination}} {{.Type}}{{end}}", "/data volume"),
        ("{{range .HostConfig.Binds}}x{{else}}none{{end}}", "none"),
        ("{{range 3}}{{.}}{{end}}", "012"),
        ("{{range .Config.Env}}{{.}}{{break}}{{end}}", "PATH=/bin"),
        ("{{range $i, $e := .Config.Env}}{{if eq $i 0}}{{continue}}{{end}}{{$e}}{{end}}", "A=1"),
        ("{{range split .Labels \",\"}}<{{.}}>{{end}}", "<a=b><com.x/y=1><2>"),
        (
            "{{range $p, $conf := .NetworkSettings.Ports}}{{$p}}:{{range $conf}}{{.HostPort}}{{end}};{{end}}",
            "80/tcp:8080;81/udp:;",
        ),
    ]);
}

#[test]
fn variables_live_as_long_as_their_block() {
    check(&[
        ("{{$x := .Id}}{{$x}} {{$.Names}}", "2a2746dabd61 web"),
        ("{{$n := 0}}{{range .Config.Env}}{{$n = len .}}{{end}}{{$n}}", "3"),
        ("{{$x := 1}}{{if true}}{{$x := 2}}{{$x}}{{end}}{{$x}}", "21"),
        ("{{$x := .State}}{{$x.Status}}", "running"),
    ]);
    refuse(&[
        ("{{$y}}", "1: undefined variable \"$y\""),
        ("{{if true}}{{$x := 2}}{{end}}{{$x}}", "1: undefined variable \"$x\""),
        ("{{$y = 1}}", "1: undefined variable \"$y\""),
        ("{{range $a, $b, $c := .Args}}{{end}}", "1: too many declarations in range"),
        ("{{$a, $b := .Args}}", "1: too many declarations in command"),
    ]);
}

#[test]
fn pipes_pass_the_last_argument() {
    check(&[
        ("{{.Id | upper | lower}}{{.Names | }}", "2a2746dabd61web"),
        (r#"{{"a\tb" | printf "%s"}}"#, "a\tb"),
        ("{{.State.Pid | printf \"%d\"}}", "125"),
        ("{{.Config.Env | len | printf \"%03d\"}}", "002"),
        ("{{\",\" | split .Labels | len}}", "3"),
        ("{{(.Names | upper) | printf \"%s%s\" .Names}}", "webWEB"),
    ]);
}

#[test]
fn functions_do_what_docker_s_do() {
    check(&[
        (
            "{{json .Config.Labels}} {{json .Labels}} {{json .State.Health}}",
            "{\"a\":\"b\",\"com.x/y\":\"1,2\"} \"a=b,com.x/y=1,2\" null",
        ),
        ("{{json \"<&>\"}}", "\"<&>\""),
        ("{{pad .Names 2 3}}|{{pad \"\" 2 3}}|", "  web   ||"),
        ("{{truncate .Names 2}} {{truncate .Names 9}}", "we web"),
        ("{{split .Labels \",\"}} {{join (split .Labels \",\") \"+\"}}", "[a=b com.x/y=1 2] a=b+com.x/y=1+2"),
        ("{{title .Names}} {{title \"two-words here_too\"}}", "Web Two-Words Here_too"),
        ("{{upper \"aé\"}} {{lower \"AÉ\"}}", "AÉ aé"),
        ("{{len .Names}} {{len .Config.Env}} {{len .Config.Labels}}", "3 2 2"),
        ("{{println 1 2 \"x\" \"y\" 3}}|{{print 1 2 \"x\" \"y\" 3}}|{{print 1 2}}", "1 2 x y 3\n|1 2xy3|1 2"),
        ("{{index .Config.Labels \"com.x/y\"}}|{{index .Config.Labels \"nope\"}}|", "1,2||"),
        ("{{index .Config.Env 1}} {{index .Names 0}} {{index .Config.Env}}", "A=1 119 [PATH=/bin A=1]"),
        (
            "{{slice .Names 1}} {{slice .Names 1 2}} {{slice .Config.Env 1}} {{slice .Names}}",
            "eb e [A=1] web",
        ),
        (
            "{{html \"<a href='x'>&\\\"\"}} {{urlquery \"a b&c/é\"}}",
            "&lt;a href=&#39;x&#39;&gt;&amp;&#34; a+b%26c%2F%C3%A9",
        ),
        (
            "{{and .Id .Names}} {{or \"\" \"b\"}} {{not 1}} {{and 0 (index .Args 9)}} {{or 1 (len 3)}}",
            "web b false 0 1",
        ),
        ("{{1 | and 0}}|{{0 | or 2}}|{{3 | and 2}}", "0|2|3"),
    ]);
}

#[test]
fn comparisons_are_by_kind() {
    check(&[
        ("{{if eq .Names \"web\" \"x\"}}yes{{else}}no{{end}}", "yes"),
        ("{{eq .Names \"x\" \"web\"}} {{eq 1 1}} {{ne 1 2}} {{eq true true}}", "true true true true"),
        ("{{lt 1 2}} {{le 2 2}} {{gt \"b\" \"a\"}} {{ge 1 2}} {{lt 1.5 2.5}}", "true true true false true"),
        ("{{eq .State.Health nil}} {{eq .State.Health \"x\"}}", "true false"),
        ("{{gt .State.Pid 100}}", "true"),
    ]);
    refuse(&[
        (
            "{{eq 1 1.0}}",
            "1:2: executing \"\" at <eq 1 1.0>: error calling eq: incompatible types for comparison",
        ),
        (
            "{{lt 1.5 2}}",
            "1:2: executing \"\" at <lt 1.5 2>: error calling lt: incompatible types for comparison",
        ),
        ("{{eq 1}}", "1:2: executing \"\" at <eq 1>: error calling eq: missing argument for comparison"),
        (
            "{{lt true false}}",
            "1:2: executing \"\" at <lt true false>: error calling lt: invalid type for comparison",
        ),
        ("{{eq .Args 1}}", "1:2: executing \"\" at <eq .Args 1>: error calling eq: non-comparable type"),
    ]);
}

#[test]
fn printf_has_go_s_verbs() {
    check(&[
        (
            "{{printf \"%q %5s %-5s| %v %d %x\" .Names .Names .Names .Names 3 255}}",
            "\"web\"   web web  | web 3 ff",
        ),
        (
            "{{printf \"%d\" \"x\"}} {{printf \"%s\" 1}} {{printf \"%d\"}} {{printf \"x\" 1}}",
            "%!d(string=x) %!s(int=1) %!d(MISSING) x%!(EXTRA int=1)",
        ),
        ("{{printf \"%05d|%-5d|%+d|% d|%5d\" 42 42 42 42 -42}}", "00042|42   |+42| 42|  -42"),
        (
            "{{printf \"%05d|%.3d|%X|%#x|%o|%b|%c|%U|%q\" -42 7 255 255 8 5 65 228 65}}",
            "-0042|007|FF|0xff|10|101|A|U+00E4|'A'",
        ),
        (
            "{{printf \"%.2f|%8.3f|%e|%g|%v|%.3g\" 3.14159 2.5 1234.5 0.5 1e21 1234.5}}",
            "3.14|   2.500|1.234500e+03|0.5|1e+21|1.23e+03",
        ),
        ("{{printf \"%t %v %T %T\" true .State.Health .Names 1}}", "true <nil> string int"),
        (
            "{{printf \"%s %q %v\" .Config.Env .Args .Config.Labels}}",
            "[PATH=/bin A=1] [\"1000\"] map[a:b com.x/y:1,2]",
        ),
        ("{{printf \"%x %X %.2s 100%% %\" \"hi\" \"hi\" \"hello\"}}", "6869 6869 he 100% %!(NOVERB)"),
        (
            "{{printf \"%z\" 1}} {{printf \"%s\" true}} {{printf \"%s\" nil}}",
            "%!z(int=1) %!s(bool=true) %!s(<nil>)",
        ),
        ("{{printf \"%05s|%v %v %v\" \"x\" 1.0 100000000.0 123456.5}}", "0000x|1 1e+08 123456.5"),
    ]);
}

#[test]
fn what_is_no_template_is_refused_with_its_line() {
    refuse(&[
        ("{{.ID", "1: unclosed action"),
        ("a\nb {{.ID", "2: unclosed action"),
        ("{{foo .ID}}", "1: function \"foo\" not defined"),
        ("{{}}", "1: missing value for command"),
        ("{{if}}x{{end}}", "1: missing value for if"),
        ("{{if .ID}}x", "1: unexpected EOF"),
        ("{{if .ID}}x{{else}}y", "1: unexpected EOF"),
        ("{{end}}", "1: unexpected {{end}}"),
        ("{{else}}", "1: unexpected {{else}}"),
        ("{{if 1}}{{else}}{{else}}{{end}}", "1: expected end; found {{else}}"),
        ("{{break}}", "1: {{break}} outside {{range}}"),
        ("{{.ID}", "1: bad character U+007D '}'"),
        ("{{ \"a }}", "1: unterminated quoted string"),
        ("{{ \"a\\q\" }}", "1: invalid syntax"),
        ("{{ `a }}", "1: unterminated raw quoted string"),
        ("{{ 'ab' }}", "1: malformed character constant: 'ab'"),
        ("{{ 'a }}", "1: unterminated character constant"),
        ("{{(.ID}}", "1: unclosed left paren"),
        ("{{.ID)}}", "1: unexpected right paren"),
        ("{{/* x }}", "1: unclosed comment"),
        ("{{/* x */ }}", "1: comment ends before closing delimiter"),
        ("{{.ID | 3}}", "1: non executable command in pipeline stage 2"),
        ("{{3x}}", "1: bad number syntax: \"3x\""),
        ("{{.ID ! }}", "1: unexpected \"!\" in operand"),
        ("{{.ID € }}", "1: unrecognized character in action: U+20AC '€'"),
        ("{{\"a\"\"b\"}}", "1: unexpected \"\\\"b\\\"\" in operand"),
        ("{{, }}", "1: unexpected \",\" in command"),
        ("{{3.ID}}", "1: bad number syntax: \"3.ID\""),
        ("{{\"a\".ID}}", "1: unexpected . after term \"\\\"a\\\"\""),
        ("{{print if}}", "1: unexpected <if> in operand"),
        ("{{()}}", "1: missing value for parenthesized pipeline"),
    ]);
    // Ours: a template in a template has no use on a command line.
    refuse(&[
        ("{{define \"x\"}}{{end}}", "1: {{define}} is not supported"),
        ("{{template \"x\"}}", "1: {{template}} is not supported"),
    ]);
    let deep = format!("{{{{{}1{}}}}}", "(".repeat(101), ")".repeat(101));
    assert_eq!(render(&deep), Err("template: :1: nested too deeply".into()));
}

#[test]
fn what_does_not_fit_a_document_is_refused_with_its_place() {
    refuse(&[
        ("{{.Foo}}", "1:2: executing \"\" at <.Foo>: map has no entry for key \"Foo\""),
        ("{{.Id}}|\n {{ .Foo}}", "2:4: executing \"\" at <.Foo>: map has no entry for key \"Foo\""),
        ("{{.State.Foo}}", "1:8: executing \"\" at <.State.Foo>: map has no entry for key \"Foo\""),
        ("{{.Foo.Bar.Baz}}", "1:6: executing \"\" at <.Foo.Bar.Baz>: map has no entry for key \"Foo\""),
        ("{{.Id.Foo}}", "1:5: executing \"\" at <.Id.Foo>: can't evaluate field Foo in type string"),
        (
            "{{.State.Health.Status}}",
            "1:8: executing \"\" at <.State.Health.Status>: nil pointer evaluating interface {}.Status",
        ),
        ("{{nil}}", "1:2: executing \"\" at <nil>: nil is not a command"),
        ("{{.Names \"x\"}}", "1:2: executing \"\" at <.Names>: Names is not a method but has arguments"),
        ("{{3 4}}", "1:2: executing \"\" at <3>: can't give argument to non-function 3"),
        ("{{range .Id}}{{end}}", "1:8: executing \"\" at <.Id>: range can't iterate over 2a2746dabd61"),
        ("{{split 3 \",\"}}", "1:8: executing \"\" at <3>: expected string; found 3"),
        (
            "{{upper .State.Pid}}",
            "1:14: executing \"\" at <.State.Pid>: wrong type for value; expected string; got int",
        ),
        (
            "{{join .Config.Env}}",
            "1:2: executing \"\" at <join>: wrong number of args for join: want 2 got 1",
        ),
        (
            "{{index}}",
            "1:2: executing \"\" at <index>: wrong number of args for index: want at least 1 got 0",
        ),
        ("{{len 3}}", "1:2: executing \"\" at <len 3>: error calling len: len of type int"),
        (
            "{{index .Config.Env 7}}",
            "1:2: executing \"\" at <index .Config.Env 7>: error calling index: index out of range: 7",
        ),
        (
            "{{index .Config.Env \"x\"}}",
            "1:2: executing \"\" at <index .Config.Env \"x\">: error calling index: cannot index slice/array with type string",
        ),
        (
            "{{index .State.Health \"x\"}}",
            "1:2: executing \"\" at <index .State.Health \"x\">: error calling index: index of untyped nil",
        ),
        (
            "{{slice .Config.Env 0 9}}",
            "1:2: executing \"\" at <slice .Config.Env 0 9>: error calling slice: index out of range: 9",
        ),
        (
            "{{slice .Names 2 1}}",
            "1:2: executing \"\" at <slice .Names 2 1>: error calling slice: invalid slice index: 2 > 1",
        ),
        (
            "{{pad .Names 1000000000 0}}",
            "1:2: executing \"\" at <pad .Names 1000000000 0>: error calling pad: too much text",
        ),
    ]);
}

#[test]
fn no_template_takes_all_time_or_memory() {
    for template in [
        "{{range 1000000000}}{{end}}",
        "{{range 1000000}}{{printf \"%9999d\" 1}}{{end}}",
        "{{$x := \"0123456789\"}}{{range 100}}{{$x = print $x $x}}{{end}}",
    ] {
        let error = render(template).expect_err(template);
        assert!(error.contains("too much"), "{template}: {error}");
    }
}

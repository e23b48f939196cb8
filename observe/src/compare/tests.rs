//! Properties of the statistics, by simulation with fixed seeds: how often intervals hold the truth, and how often a difference is
//! found where there is none.

use super::*;

/// A standard normal figure: Box and Muller.
fn normal(random: &mut Random) -> f64 {
    let radius = (-2.0 * (1.0 - random.unit()).ln()).sqrt();
    radius * (2.0 * std::f64::consts::PI * random.unit()).cos()
}

/// Times as machines give them: most near 100, a few far above.
fn time(random: &mut Random) -> f64 {
    let usual = 100.0 * (0.05 * normal(random)).exp();
    if random.below(20) == 0 { usual * (1.5 + random.unit()) } else { usual }
}

fn settings(statistic: Statistic) -> Settings {
    Settings { statistic, confidence: 0.95, resamples: 300 }
}

/// In how many of 200 experiments the interval holds the true difference.
fn coverage(
    statistic: Statistic,
    pairs: usize,
    truth: f64,
    draw: &mut dyn FnMut(&mut Random) -> (f64, f64),
) -> usize {
    let mut random = Random::new(7);
    (0..200)
        .filter(|_| {
            let (a, b): (Vec<f64>, Vec<f64>) = (0..pairs).map(|_| draw(&mut random)).unzip();
            let found = difference(&a, &b, &settings(statistic), &mut random).absolute;
            found.low <= truth && truth <= found.high
        })
        .count()
}

#[test]
fn intervals_of_95_percent_hold_the_truth_in_95_of_100() {
    for statistic in [Statistic::Median, Statistic::Mean] {
        for pairs in [2, 3, 4, 5, 6, 10, 40] {
            let held = coverage(statistic, pairs, 3.0, &mut |random| {
                (100.0 + 5.0 * normal(random), 103.0 + 5.0 * normal(random))
            });
            // 190 are expected, and the standard deviation is 3.1.

            assert!((181..=200).contains(&held), "{statistic:?} of {pairs}: {held}");
            let held = coverage(statistic, pairs, 0.0, &mut |random| (time(random), time(random)));

            assert!((176..=200).contains(&held), "{statistic:?} of {pairs} with outliers: {held}");
        }
    }
}

#[test]
fn what_both_sides_of_a_pair_meet_does_not_widen_the_interval_of_means() {
    let mut random = Random::new(1);
    let drifting: Vec<(f64, f64)> = (0..40)
        .map(|at| {
            let drift = f64::from(at) * 2.0;
            (100.0 + drift + normal(&mut random), 101.0 + drift + normal(&mut random))
        })
        .collect();
    let (a, b): (Vec<f64>, Vec<f64>) = drifting.into_iter().unzip();
    let found = difference(&a, &b, &settings(Statistic::Mean), &mut random).absolute;
    assert!(found.half_width() < 0.8, "{found:?}");
    assert!(found.low <= 1.0 && 1.0 <= found.high, "{found:?}");
}

#[test]
fn to_stop_when_the_interval_is_narrow_keeps_what_it_promises() {
    let mut random = Random::new(3);
    let stopping = Stopping { precision: 0.02, min_pairs: 10, max_pairs: 200 };
    let settings = settings(Statistic::Median);
    let mut used = 0;
    let held = (0..200)
        .filter(|_| {
            let (mut a, mut b) = (Vec::new(), Vec::new());
            let mut pairs = stopping.next_look(0);
            loop {
                a.resize_with(pairs, || time(&mut random));
                b.resize_with(pairs, || time(&mut random));
                let found = difference(&a, &b, &settings, &mut random).absolute;
                let base = settings.statistic.of(&mut a.clone());
                if stopping.is_narrow(&found, base) || pairs >= stopping.max_pairs {
                    used += pairs;
                    return found.low <= 0.0 && 0.0 <= found.high;
                }
                pairs = stopping.next_look(pairs);
            }
        })
        .count();
    assert!((180..=199).contains(&held), "{held} of 200");
    assert!((20..=120).contains(&(used / 200)), "{} pairs on average", used / 200);
}

#[test]
fn of_two_equal_sides_hardly_any_are_told_apart() {
    // In 100.
    for (statistic, most) in [(Statistic::Median, 1), (Statistic::Mean, 3)] {
        let mut random = Random::new(11);
        let settings = settings(statistic);
        let found = (0..500)
            .filter(|_| {
                let draw = |random: &mut Random| -> Vec<f64> { (0..30).map(|_| time(random)).collect() };
                let (a, b, control) = (draw(&mut random), draw(&mut random), draw(&mut random));
                let all: Vec<f64> = a.iter().chain(&control).copied().collect();
                let floor = noise_floor(&all, a.len(), &settings, &mut random);
                let between = difference(&a, &b, &settings, &mut random).absolute;
                verdict(&a, &b, &between, floor) != Verdict::None
            })
            .count();
        assert!(found <= most * 5, "{statistic:?}: {found} of 500");
    }
}

#[test]
fn a_difference_that_is_there_is_found() {
    let mut random = Random::new(5);
    let settings = settings(Statistic::Median);
    let found = (0..100)
        .filter(|_| {
            let a: Vec<f64> = (0..30).map(|_| time(&mut random)).collect();
            let b: Vec<f64> = (0..30).map(|_| 1.1 * time(&mut random)).collect();
            let floor = noise_floor(&a, a.len(), &settings, &mut random);
            let between = difference(&a, &b, &settings, &mut random);
            let relative = between.relative.expect("of a time");
            assert!(relative.low < relative.estimate && relative.estimate < relative.high);
            verdict(&a, &b, &between.absolute, floor) == Verdict::Higher
        })
        .count();
    assert!(found >= 95, "{found} of 100");
}

#[test]
fn counts_that_never_vary_are_told_apart_exactly() {
    let (a, b) = (vec![1000.0; 10], vec![1001.0; 10]);
    let mut random = Random::new(0);
    let settings = Settings::default();
    let between = difference(&a, &b, &settings, &mut random);
    assert_eq!(between.absolute, Interval { estimate: 1.0, low: 1.0, high: 1.0 });
    let floor = noise_floor(&a, a.len(), &settings, &mut random);
    assert_eq!(verdict(&a, &b, &between.absolute, floor), Verdict::Higher);
    let same = difference(&a, &a, &settings, &mut random).absolute;
    assert_eq!(verdict(&a, &a, &same, floor), Verdict::Equal);
}

#[test]
fn of_nothing_and_of_zeros_there_is_no_ratio() {
    let mut random = Random::new(0);
    let nothing = difference(&[], &[], &Settings::default(), &mut random);
    assert_eq!(
        (nothing.absolute.estimate, nothing.absolute.is_bounded(), nothing.relative),
        (0.0, false, None)
    );
    let zeros = difference(&[0.0; 6], &[1.0; 6], &Settings::default(), &mut random);
    assert_eq!((zeros.absolute.estimate, zeros.relative), (1.0, None));
    assert!(noise_floor(&[1.0], 1, &Settings::default(), &mut random).is_infinite());
}

#[test]
fn blocks_have_two_neighbouring_pairs() {
    let mut random = Random::new(9);
    let blocks: Vec<[Arm; 4]> = (0..100).map(|_| block(&mut random)).collect();
    for [a, b, c, d] in &blocks {
        assert!(a != b && c != d && a == d && b == c);
    }
    assert!((30..70).contains(&blocks.iter().filter(|block| block[0] == Arm::A).count()));
}

#[test]
fn looks_are_at_whole_blocks_and_end() {
    let stopping = Stopping { precision: 0.01, min_pairs: 5, max_pairs: 31 };
    let mut looks = vec![stopping.next_look(0)];
    while looks[looks.len() - 1] < 31 {
        looks.push(stopping.next_look(looks[looks.len() - 1]));
    }
    assert_eq!(looks, [6, 8, 10, 12, 16, 20, 26, 32]);
}

/// Runs of A and of B, whose wall times are `by` apart, and which have no other figures.
fn runs(pairs: u64, by: u64) -> Vec<Run> {
    let mut random = Random::new(2);
    let mut at_ns = 0;
    let mut runs = Vec::new();
    for phase in [Phase::WarmUp, Phase::Control, Phase::Comparison] {
        for _ in 0..pairs / 2 {
            for arm in block(&mut random) {
                at_ns += 1000;
                let mut figures = Figures::default();
                let more = if arm == Arm::B && phase == Phase::Comparison { by } else { 0 };
                figures.set("wall", Some(1_000_000 + random.below(1000) as u64 + more));
                runs.push(Run { phase, arm, at_ns, exit_code: 0, figures });
            }
        }
    }
    runs
}

fn about() -> About {
    About {
        a: "host sh -c 'a < b'".into(),
        b: Some("host true".into()),
        settings: Settings::default(),
        seed: 1,
    }
}

#[test]
fn a_report_judges_what_every_run_has() {
    let limits = ["wall > +5%", "wall > +50us", "wall > 2ms", "wall < +1%", "cycles > +1%"]
        .map(|text| Limit::parse(text).expect("a limit"));
    let report = Report::new(about(), runs(20, 100_000), &limits);
    assert_eq!(report.compared.len(), 1);
    assert_eq!(report.missing.len(), METRICS.len() - 1);
    let wall = &report.compared[0];
    assert_eq!((wall.verdict, wall.a.n), (Some(Verdict::Higher), 20));
    assert!(wall.control.is_some_and(|control| !control.differs && control.pairs == 20));
    let failed: Vec<bool> = report.limits.iter().map(|limit| limit.failed).collect();
    assert_eq!(failed, [true, true, false, false, false]);
    assert!(report.limits[4].interval.is_none());
    assert_eq!(report.judged(), Judged::Exceeded);
    assert_eq!(Report::new(about(), runs(20, 100_000), &limits), report, "the same seed, the same report");
    let equal = Report::new(about(), runs(20, 0), &[]);
    assert_eq!((equal.compared[0].verdict, equal.judged()), (Some(Verdict::None), Judged::Kept));
}

#[test]
fn limits_are_understood_or_refused() {
    for (text, expected) in [
        ("wall", LimitError::Form),
        ("speed > +1%", LimitError::Metric),
        ("wall > +x%", LimitError::Number),
        ("wall > ", LimitError::Number),
        ("wall > 3%", LimitError::Sign),
        ("wall > +3", LimitError::Unit),
        ("minor-faults > +3ms", LimitError::Unit),
        ("wall >> +3%", LimitError::Number),
        ("wall > +3 % more", LimitError::Unit),
    ] {
        assert_eq!(Limit::parse(text), Err(expected), "{text}");
    }
    for text in ["wall>+3%", " cpu < -1.5ms ", "memory-peak > 64MiB", "syscalls > +0", "instructions > +1M"] {
        assert!(Limit::parse(text).is_ok(), "{text}");
    }
    assert!(Limit::parse("wall > +3%").is_ok_and(|limit| limit.compares() && limit.metric() == 0));
    assert!(Limit::parse("wall > 3ms").is_ok_and(|limit| !limit.compares()));
}

#[test]
fn the_page_is_well_formed_and_needs_nothing() {
    let limits = [Limit::parse("wall > +5%").expect("a limit")];
    for (about, by) in [(about(), 100_000), (about(), 0), (About { b: None, ..about() }, 0)] {
        let report = Report::new(about, runs(10, by), &limits);
        let page = page(&report);
        let body = page.strip_prefix("<!DOCTYPE html>\n").expect("a document type");
        let document = roxmltree::Document::parse(body).unwrap_or_else(|e| panic!("{e}: {page}"));
        let count = |name: &str| document.descendants().filter(|node| node.has_tag_name(name)).count();
        assert!(count("svg") >= 2 && count("table") == 1 && count("script") == 0);
        for forbidden in ["href", "src=", "url(", "http", "NaN", "inf"] {
            assert!(!page.contains(forbidden), "{forbidden}");
        }
        assert!(page.contains("host sh -c 'a &lt; b'"));
    }
}

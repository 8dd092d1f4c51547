//! Nothing from outside makes us panic or hang, and every refusal says where: a bounded run of the fuzz targets, on good inputs
//! with mistakes in them and on octets. `KUMA_DNS_FUZZ_SEED` begins elsewhere, `KUMA_DNS_FUZZ_CASES` goes further;
//! `cargo xtask fuzz` goes on for as long as it is told.
#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use harness::fuzzing::mutate::{self, Dice};
use harness::fuzzing::{TARGETS, Target, seeds, target};
use serde_json::Value;

/// Inputs of each target, unless the environment says otherwise.
const CASES: u64 = 3_000;
/// The slowest good input takes a few milliseconds; one that takes this long on a busy machine will not end.
const HANG: Duration = Duration::from_secs(10);

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

fn first_seed() -> u64 {
    number("KUMA_DNS_FUZZ_SEED", 0)
}

fn cases() -> u64 {
    number("KUMA_DNS_FUZZ_CASES", CASES)
}

/// Runs a target; says the seed and the input when something does not hold.
fn check(target: Target, seed: &str, input: &[u8]) {
    let begin = Instant::now();
    let panicked = catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
    let shown = String::from_utf8_lossy(input);
    if let Err(panic) = panicked {
        panic!("{}, seed {seed}: {}\non {shown:?}\noctets {input:02x?}", target.name, words(&*panic));
    }
    assert!(begin.elapsed() < HANG, "{}, seed {seed}: {:?} on {shown:?}", target.name, begin.elapsed());
}

fn words(panic: &dyn Any) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without words")
}

fn run(name: &str, mut input: impl FnMut(&mut Dice) -> Vec<u8>) {
    let target = target(name).unwrap();
    println!("{name}: {} cases from seed {}", cases(), first_seed());
    for seed in first_seed()..first_seed() + cases() {
        let input = input(&mut Dice::new(seed));
        check(target, &seed.to_string(), &input);
    }
}

/// Good inputs with changed octets.
fn octets(name: &str) {
    let mut good = seeds::seeds(name).unwrap();
    good.push(Vec::new());
    run(name, |dice| {
        let good = dice.one_of(&good).clone();
        mutate::octets(dice, &good)
    });
}

#[test]
fn inputs_that_were_kept_are_well() {
    for target in TARGETS {
        for (at, input) in seeds::seeds(target.name).unwrap().iter().enumerate() {
            check(target, &format!("kept {at}"), input);
        }
    }
}

#[test]
fn good_documents_of_every_kind_are_taken() {
    for (kind, document) in seeds::documents() {
        let key = kuma_dns::model::kind::ResourceKey::new(kind, "default", "fuzz");
        if let Err(invalid) = kuma_dns::cp::registry::canonical(&key, document.to_string().as_bytes()) {
            panic!("a good {kind} is refused: {invalid}");
        }
    }
}

#[test]
fn a_body_with_mistakes_is_refused_field_by_field() {
    let documents = seeds::documents();
    run("body", |dice| {
        let (kind, document) = dice.one_of(&documents);
        let changed = mutate::document(dice, document);
        seeds::body(*kind, &changed)
    });
    octets("body");
}

#[test]
fn a_file_with_mistakes_is_refused_line_by_line() {
    let documents: Vec<Value> = seeds::documents().into_iter().map(|(_, document)| document).collect();
    run("files", |dice| {
        let mut text = String::new();
        for _ in 0..=dice.below(3) {
            let document = dice.one_of(&documents);
            // JSON is YAML; a document begins on a line of its own.
            text.push_str(&format!("---\n{:#}\n", mutate::document(dice, document)));
        }
        text.into_bytes()
    });
    octets("files");
}

#[test]
fn configurations_with_mistakes_are_refused_in_words() {
    octets("configuration");
}

#[test]
fn configmaps_with_mistakes_are_refused_and_what_is_written_is_understood() {
    octets("install");
}

#[test]
fn no_question_breaks_a_zone_and_every_answer_is_read_by_another_library() {
    octets("dns");
}

#[test]
fn no_octets_break_what_control_plane_agents_and_proxies_say_to_each_other() {
    octets("view");
    octets("xds");
    octets("socket");
}

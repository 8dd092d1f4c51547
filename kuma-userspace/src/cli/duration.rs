//! Durations as people type them: `10s`, `500ms`, `2m`. Called by the flags that take one.

use std::time::Duration;

/// Parses a number with a unit.
pub(super) fn parse(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let refused = || format!("{text:?} is no duration: a number and ms, s, m or h, for example 10s");
    let number: u64 = number.parse().map_err(|_not_a_number| refused())?;
    match unit {
        "ms" => Ok(Duration::from_millis(number)),
        "s" => Ok(Duration::from_secs(number)),
        "m" => Ok(Duration::from_secs(number.saturating_mul(60))),
        "h" => Ok(Duration::from_secs(number.saturating_mul(3_600))),
        _ => Err(refused()),
    }
}

/// A duration for people: the two largest units that say something.
pub(super) fn human(duration: Duration) -> String {
    let (millis, secs) = (duration.as_millis(), duration.as_secs());
    match secs {
        0 => format!("{millis} ms"),
        1..=9 => format!("{}.{} s", secs, duration.subsec_millis() / 100),
        10..=119 => format!("{secs} s"),
        120..=7199 => format!("{} min {} s", secs / 60, secs % 60),
        7200..=172_799 => format!("{} h {} min", secs / 3600, secs % 3600 / 60),
        _ => format!("{} d {} h", secs / 86400, secs % 86400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_needs_a_number_and_a_unit() {
        assert_eq!(parse("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(parse("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(parse("720h"), Ok(Duration::from_secs(720 * 3_600)));
        for bad in ["", "10", "s", "1d", "-1s", "1.5s"] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_duration_reads_well() {
        for (millis, want) in [
            (0, "0 ms"),
            (412, "412 ms"),
            (1_250, "1.2 s"),
            (61_000, "61 s"),
            (125_000, "2 min 5 s"),
            (7_260_000, "2 h 1 min"),
            (180_000_000, "2 d 2 h"),
        ] {
            assert_eq!(human(Duration::from_millis(millis)), want);
        }
    }
}

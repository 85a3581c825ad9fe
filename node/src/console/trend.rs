//! A line over days, as an SVG that stands in the page, and the same in words for whoever does not see it.

use crate::api::reports::Tally;

/// Width of a day and height of all, in the picture's own units.
const STEP: usize = 10;
const HEIGHT: u64 = 100;

/// The picture of what was done and of what was not known, day by day, and what it says. Everything in it is made of numbers and days.
pub(super) fn of(days: &[(String, Tally)]) -> (String, String) {
    let words = words(days);
    let wide = days.len().saturating_sub(1).max(1) * STEP;
    let done = lines("done", days, |tally| tally.done);
    let unknown = lines("unknown", days, |tally| tally.unknown);
    let grid: String = [0, 25, 50, 75, 100].map(|at| format!("<path class=\"grid\" d=\"M0 {at}H{wide}\"/>")).concat();
    let svg = format!(
        "<svg class=\"trend\" viewBox=\"0 -2 {wide} 104\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"{words}\">\
         <title>{words}</title>{grid}{unknown}{done}</svg>"
    );
    (svg, words)
}

/// A line for each run of days on which anything was expected.
fn lines(class: &str, days: &[(String, Tally)], part: impl Fn(&Tally) -> u64) -> String {
    let mut all = String::new();
    let mut points: Vec<String> = Vec::new();
    for (at, day) in days.iter().map(Some).chain([None]).enumerate() {
        let known = day.map(|(_, tally)| tally).filter(|tally| tally.expected > 0);
        if let Some(tally) = known {
            // In tenths, so that one device of a thousand is seen.
            let high = part(tally).saturating_mul(HEIGHT * 10) / tally.expected;
            let down = (HEIGHT * 10).saturating_sub(high);
            points.push(format!("{},{}.{}", at * STEP, down / 10, down % 10));
        } else if !points.is_empty() {
            // A single day is a short stroke.
            if let [only] = points.as_slice() {
                points = vec![only.clone(), only.clone()];
            }
            all += &format!("<polyline class=\"{class}\" points=\"{}\"/>", points.join(" "));
            points.clear();
        }
    }
    all
}

fn words(days: &[(String, Tally)]) -> String {
    let known: Vec<&(String, Tally)> = days.iter().filter(|(_, tally)| tally.expected > 0).collect();
    let (Some((first, at_first)), Some((last, at_last))) = (known.first(), known.last()) else {
        return "Nothing was expected of any device in these days.".to_owned();
    };
    let lowest = known.iter().min_by_key(|(_, tally)| tally.done_in_10000());
    let lowest = lowest.map_or_else(String::new, |(day, tally)| format!("; lowest {} % on {day}", tally.percent()));
    format!(
        "Done of what was approved: {} % on {first}, {} % on {last}{lowest}. Not known on {last}: {} of {}.",
        at_first.percent(),
        at_last.percent(),
        at_last.unknown,
        at_last.expected
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(number: u8, done: u64, unknown: u64, expected: u64) -> (String, Tally) {
        (format!("2026-11-{number:02}"), Tally { expected, done, unknown, ..Tally::default() })
    }

    #[test]
    fn a_picture_and_its_words_say_the_same_and_gaps_stay_gaps() {
        let days = [day(1, 50, 10, 100), day(2, 0, 0, 0), day(3, 20, 80, 100), day(4, 999, 1, 1000)];
        let (svg, words) = of(&days);
        assert!(svg.contains("points=\"0,50.0 0,50.0\"") && svg.contains("points=\"20,80.0 30,0.1\""), "{svg}");
        assert_eq!(svg.matches("<polyline class=\"done\"").count(), 2);
        assert!(
            words.contains("50.00 % on 2026-11-01, 99.90 % on 2026-11-04; lowest 20.00 % on 2026-11-03"),
            "{words}"
        );
        assert!(words.contains("Not known on 2026-11-04: 1 of 1000") && svg.contains(&words));
        assert!(!svg.contains("style="), "the pages' policy refuses styles in place");
    }

    #[test]
    fn without_days_it_says_so() {
        assert!(of(&[]).1.contains("Nothing was expected"));
        let (svg, words) = of(&[day(1, 1, 0, 1)]);
        assert!(words.contains("100.00 % on 2026-11-01, 100.00 % on 2026-11-01"), "{words}");
        assert!(svg.contains("viewBox=\"0 -2 10 104\""));
    }
}

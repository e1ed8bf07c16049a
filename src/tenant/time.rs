//! Times of a keys file: RFC 3339 to seconds since 1970.

use toml::value::{Datetime, Offset};

/// The seconds since 1970 of a full date and time with its offset; `None` where a part is missing
/// or it lies before 1970.
#[must_use]
pub fn unix_seconds(time: &Datetime) -> Option<u64> {
    let (date, clock, offset) = (time.date?, time.time?, time.offset?);
    let minutes_east = match offset {
        Offset::Z => 0,
        Offset::Custom { minutes } => i64::from(minutes),
    };
    let days = days_since_1970(date.year.into(), date.month.into(), date.day.into());
    let minutes = i64::from(clock.hour) * 60 + i64::from(clock.minute) - minutes_east;
    let seconds = days * 86_400 + minutes * 60 + i64::from(clock.second.unwrap_or(0));
    u64::try_from(seconds).ok()
}

/// Days of the Gregorian calendar: years begin in March, so that the leap day ends one.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let of_years = year * 365 + year / 4 - year / 100 + year / 400;
    let of_months = (153 * month + 2) / 5;
    of_years + of_months + day - 1 - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        let seconds = |text: &str| unix_seconds(&text.parse().unwrap());
        assert_eq!(seconds("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(seconds("2000-02-29T12:00:00Z"), Some(951_825_600));
        assert_eq!(seconds("2026-11-25T21:00:00+01:30"), Some(1_795_635_000));
        assert_eq!(seconds("2100-03-01T00:00:00Z"), Some(4_107_542_400));
        for incomplete in ["2026-11-25", "2026-11-25T21:00:00", "1969-12-31T23:59:59Z"] {
            assert_eq!(seconds(incomplete), None, "{incomplete}");
        }
    }
}

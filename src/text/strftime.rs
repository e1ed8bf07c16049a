//! Dates for chat templates: the directives of C's `strftime` that Python shares, in UTC.

/// A directive that is not known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("strftime directive %{0} is not supported")]
pub(super) struct UnknownDirective(String);

const DAYS: [&str; 7] =
    ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// A moment of the proleptic Gregorian calendar.
struct Moment {
    year: u64,
    /// From 0.
    month: usize,
    /// From 1.
    day: u64,
    /// From 1.
    day_of_year: u64,
    /// From 0, a Monday.
    weekday: usize,
    hour: u64,
    minute: u64,
    second: u64,
}

/// Formats the moment `unix_seconds` after the start of 1970.
///
/// # Errors
/// [`UnknownDirective`] names what cannot be formatted.
pub(super) fn strftime(pattern: &str, unix_seconds: u64) -> Result<String, UnknownDirective> {
    let moment = Moment::new(unix_seconds);
    let mut text = String::new();
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            text.push(c);
            continue;
        }
        match chars.next() {
            // `%-d`: without leading zeros or spaces.
            Some('-') => {
                let directive = chars.next().unwrap_or_default();
                let padded = moment.directive(directive);
                let padded = padded.ok_or_else(|| UnknownDirective(format!("-{directive}")))?;
                let bare = padded.trim_start_matches(['0', ' ']);
                text.push_str(if bare.is_empty() { "0" } else { bare });
            }
            Some(directive) => {
                let formatted = moment.directive(directive);
                text.push_str(&formatted.ok_or_else(|| UnknownDirective(directive.to_string()))?);
            }
            None => text.push('%'),
        }
    }
    Ok(text)
}

impl Moment {
    fn new(unix_seconds: u64) -> Self {
        let (days, second_of_day) = (unix_seconds / 86_400, unix_seconds % 86_400);
        // 400 years repeat: 146 097 days, a whole number of weeks.
        let mut year = 1970 + 400 * (days / 146_097);
        let mut rest = days % 146_097;
        while rest >= year_len(year) {
            rest -= year_len(year);
            year += 1;
        }
        let day_of_year = rest + 1;
        let mut month = 0;
        while rest >= month_len(year, month) {
            rest -= month_len(year, month);
            month += 1;
        }
        Self {
            year,
            month,
            day: rest + 1,
            day_of_year,
            // 1970 began on a Thursday.
            weekday: ((days + 3) % 7) as usize,
            hour: second_of_day / 3600,
            minute: second_of_day / 60 % 60,
            second: second_of_day % 60,
        }
    }

    fn directive(&self, directive: char) -> Option<String> {
        let hour_of_12 = (self.hour + 11) % 12 + 1;
        Some(match directive {
            'Y' => self.year.to_string(),
            'y' => format!("{:02}", self.year % 100),
            'm' => format!("{:02}", self.month + 1),
            'd' => format!("{:02}", self.day),
            'e' => format!("{:2}", self.day),
            'j' => format!("{:03}", self.day_of_year),
            'B' => MONTHS[self.month].to_owned(),
            'b' | 'h' => MONTHS[self.month][..3].to_owned(),
            'A' => DAYS[self.weekday].to_owned(),
            'a' => DAYS[self.weekday][..3].to_owned(),
            'u' => (self.weekday + 1).to_string(),
            'w' => ((self.weekday + 1) % 7).to_string(),
            'H' => format!("{:02}", self.hour),
            'I' => format!("{hour_of_12:02}"),
            'M' => format!("{:02}", self.minute),
            'S' => format!("{:02}", self.second),
            'p' => if self.hour < 12 { "AM" } else { "PM" }.to_owned(),
            'F' => format!("{}-{:02}-{:02}", self.year, self.month + 1, self.day),
            'T' => format!("{:02}:{:02}:{:02}", self.hour, self.minute, self.second),
            'Z' => "UTC".to_owned(),
            'z' => "+0000".to_owned(),
            '%' => "%".to_owned(),
            _ => return None,
        })
    }
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400)
}

fn year_len(year: u64) -> u64 {
    365 + u64::from(is_leap(year))
}

fn month_len(year: u64, month: usize) -> u64 {
    const LENGTHS: [u64; 12] = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    LENGTHS[month] + u64::from(month == 1 && is_leap(year))
}

#[cfg(test)]
mod tests {
    use super::*;

    // The expected texts are what CPython's strftime prints for the same moment in UTC.
    #[test]
    fn agrees_with_python() {
        let all = "%Y %y %m %d %j %B %b %A %a %u %w %H %I %M %S %p %F %T %z %%";
        for (seconds, expected) in [
            (
                0,
                "1970 70 01 01 001 January Jan Thursday Thu 4 4 00 12 00 00 AM 1970-01-01 00:00:00 +0000 %",
            ),
            (
                951_827_696,
                "2000 00 02 29 060 February Feb Tuesday Tue 2 2 12 12 34 56 PM 2000-02-29 12:34:56 +0000 %",
            ),
            (
                1_735_689_599,
                "2024 24 12 31 366 December Dec Tuesday Tue 2 2 23 11 59 59 PM 2024-12-31 23:59:59 +0000 %",
            ),
            (
                4_107_542_400,
                "2100 00 03 01 060 March Mar Monday Mon 1 1 00 12 00 00 AM 2100-03-01 00:00:00 +0000 %",
            ),
        ] {
            assert_eq!(strftime(all, seconds).unwrap(), expected);
        }
    }

    #[test]
    fn unpadded_and_unknown_directives() {
        assert_eq!(strftime("%-d %-H %e", 0).unwrap(), "1 0  1");
        assert_eq!(strftime("100%", 0).unwrap(), "100%");
        let error = strftime("%Q", 0).unwrap_err();
        assert_eq!(error.to_string(), "strftime directive %Q is not supported");
    }

    proptest::proptest! {
        #[test]
        fn dates_follow_one_another(day in 0u64..400 * 366) {
            let (today, tomorrow) = (Moment::new(day * 86_400), Moment::new((day + 1) * 86_400));
            proptest::prop_assert_eq!(tomorrow.weekday, (today.weekday + 1) % 7);
            let expected = if today.day < month_len(today.year, today.month) {
                (today.year, today.month, today.day + 1)
            } else if today.month < 11 {
                (today.year, today.month + 1, 1)
            } else {
                (today.year + 1, 0, 1)
            };
            proptest::prop_assert_eq!((tomorrow.year, tomorrow.month, tomorrow.day), expected);
        }
    }
}

//! The grammar that home-commands is trained on: spoken-style requests, and the device call that each one means.
//!
//! Prints `request<TAB>call` lines, none of which is a request of held_out.tsv:
//!
//!     cargo run --release --example home-commands > train.tsv
//!     cargo run --release --example home-commands -- 1000 7 > other.tsv      # how many, and a seed

use std::collections::HashSet;
use std::io::{BufWriter, Write};

use thumbformer_convert::random::SplitMix64;

const HELD_OUT: &str = include_str!("held_out.tsv");

const ROOMS: [&str; 15] = [
    "kitchen",
    "bedroom",
    "bathroom",
    "hallway",
    "office",
    "garage",
    "attic",
    "basement",
    "nursery",
    "living room",
    "dining room",
    "guest room",
    "laundry",
    "porch",
    "garden",
];
const COLORS: [&str; 10] = ["red", "green", "blue", "white", "yellow", "orange", "purple", "pink", "warm", "cold"];
const LAMPS: [&str; 4] = ["light", "lights", "lamp", "lamps"];
const DAYS: [&str; 9] =
    ["today", "tomorrow", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];
const LABELS: [&str; 12] =
    ["pasta", "tea", "eggs", "bread", "pizza", "rice", "laundry", "nap", "break", "workout", "cake", "soup"];
const SCENES: [&str; 7] = ["movie", "party", "dinner", "reading", "sleep", "morning", "away"];
/// What people say before a request; mostly nothing.
const BEFORE: [&str; 14] = [
    "",
    "",
    "",
    "",
    "please ",
    "hey ",
    "could you ",
    "can you ",
    "would you ",
    "i want you to ",
    "okay ",
    "go ahead and ",
    "hey could you ",
    "now ",
];
/// And after it.
const AFTER: [&str; 11] = ["", "", "", "", "", " please", " now", " for me", " thanks", " right now", " would you"];

/// Numbers that have a name.
fn name_of(n: u32) -> Option<String> {
    const SMALL: [&str; 13] =
        ["", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"];
    const TENS: [&str; 10] = ["", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"];
    match n {
        1..=12 => Some(SMALL[n as usize].into()),
        15 => Some("fifteen".into()),
        100 => Some("one hundred".into()),
        20..=90 if n.is_multiple_of(10) => Some(TENS[n as usize / 10].into()),
        25 | 45 | 75 => Some(format!("{} five", TENS[n as usize / 10])),
        _ => None,
    }
}

/// Random choices.
struct Draw(SplitMix64);

impl Draw {
    /// Below `n`.
    fn below(&mut self, n: u32) -> u32 {
        (self.0.next_u64() % u64::from(n)) as u32
    }

    fn range(&mut self, first: u32, end: u32) -> u32 {
        first + self.below(end - first)
    }

    fn chance(&mut self, probability: f32) -> bool {
        self.0.next_f32() < probability
    }

    fn of<T: Clone>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u32) as usize].clone()
    }

    fn number(&mut self, n: u32) -> String {
        name_of(n).filter(|_| self.chance(0.5)).unwrap_or_else(|| n.to_string())
    }

    /// A time as it is said, and as it is called.
    fn clock(&mut self) -> (String, String) {
        let hour = self.below(24);
        let minute = match self.below(7) {
            0..=2 => 0,
            3 => 15,
            4 => 30,
            5 => 45,
            _ => self.below(60),
        };
        let of_day = |hour: u32| if hour.is_multiple_of(12) { 12 } else { hour % 12 };
        let half = |hour: u32| if hour % 24 < 12 { "am" } else { "pm" };
        let (twelve, am) = (of_day(hour), half(hour));
        let name = name_of(twelve).unwrap_or_default();
        let mut styles = vec![format!("{hour}:{minute:02}"), format!("{twelve}:{minute:02} {am}")];
        match minute {
            0 => {
                styles.extend([format!("{twelve} {am}"), format!("{name} {am}"), format!("{twelve}{am}")]);
                match hour {
                    0 => styles.push("midnight".into()),
                    12 => styles.push("noon".into()),
                    _ => {}
                }
            }
            15 => styles.push(format!("quarter past {name} {am}")),
            30 => styles.extend([format!("half past {name} {am}"), format!("{twelve}:30 {am}")]),
            45 => {
                let next = name_of(of_day(hour + 1)).unwrap_or_default();
                styles.push(format!("quarter to {next} {}", half(hour + 1)));
            }
            _ => {}
        }
        (self.of(&styles), format!("{hour:02}:{minute:02}"))
    }

    /// A request without politeness, and its call.
    fn request(&mut self) -> (String, String) {
        let room = self.of(&ROOMS);
        let here = room.replace(' ', "_");
        let place = self.of(&[format!("in the {room}"), format!("in the {room}"), format!("in {room}")]);
        match self.below(106) {
            0..14 => self.power(room, &here, &place),
            14..24 => self.dim(room, &here, &place),
            24..33 => self.color(room, &here, &place),
            33..41 => self.warmer(room, &here, &place),
            41..49 => self.thermostat(room, &here, &place),
            49..58 => self.timer(),
            58..67 => self.alarm(),
            67..74 => self.sensor(&here, &place),
            74..84 => self.opener(room, &here, &place),
            84..89 => self.fan(room, &here, &place),
            89..94 => self.music(&here, &place),
            94..99 => self.volume(room, &here, &place),
            99..102 => self.scene(),
            _ => self.cancel(),
        }
    }

    fn power(&mut self, room: &str, here: &str, place: &str) -> (String, String) {
        let (lamp, state) = (self.of(&LAMPS), self.of(&["on", "off"]));
        if self.chance(0.12) {
            let said = [
                format!("turn {state} all the {lamp}"),
                format!("switch all {lamp} {state}"),
                format!("all {lamp} {state}"),
                format!("every {lamp} {state}"),
            ];
            return (self.of(&said), format!("light.{state}(all)"));
        }
        let mut said = vec![
            format!("turn {state} the {room} {lamp}"),
            format!("turn the {room} {lamp} {state}"),
            format!("switch {state} the {lamp} {place}"),
            format!("switch the {room} {lamp} {state}"),
            format!("{room} {lamp} {state}"),
            format!("the {lamp} {place} should be {state}"),
            format!("put the {room} {lamp} {state}"),
        ];
        said.extend(match state {
            "on" => [format!("light up the {room}"), format!("it is too dark {place}")],
            _ => [format!("kill the {lamp} {place}"), format!("nobody is {place} so turn off the {lamp}")],
        });
        (self.of(&said), format!("light.{state}({here})"))
    }

    fn dim(&mut self, room: &str, here: &str, place: &str) -> (String, String) {
        const LEVELS: [u32; 15] = [5, 10, 15, 20, 25, 30, 40, 45, 50, 60, 70, 75, 80, 90, 100];
        let lamp = self.of(&LAMPS);
        let n = match self.below(16) {
            15 => self.range(1, 100),
            i => LEVELS[i as usize],
        };
        let percent = self.of(&[" percent", " percent", "%"]);
        let number = if percent == "%" { n.to_string() } else { self.number(n) };
        let said = [
            format!("dim the {room} {lamp} to {number}{percent}"),
            format!("set the {room} {lamp} to {number}{percent}"),
            format!("bring the {lamp} {place} to {number}{percent}"),
            format!("{room} {lamp} at {number}{percent}"),
            format!("set brightness {place} to {number}{percent}"),
        ];
        (self.of(&said), format!("light.dim({here},{n})"))
    }

    fn color(&mut self, room: &str, here: &str, place: &str) -> (String, String) {
        let (lamp, color) = (self.of(&LAMPS), self.of(&COLORS));
        let said = [
            format!("make the {room} {lamp} {color}"),
            format!("turn the {room} {lamp} {color}"),
            format!("set the {lamp} {place} to {color}"),
            format!("change the {room} {lamp} to {color}"),
            format!("i would like {color} {lamp} {place}"),
            format!("{color} {lamp} {place}"),
        ];
        (self.of(&said), format!("light.color({here},{color})"))
    }

    fn warmer(&mut self, room: &str, here: &str, place: &str) -> (String, String) {
        let (n, up) = (self.range(1, 6), self.chance(0.5));
        let degrees = if n == 1 { "degree" } else { "degrees" };
        let number = self.number(n);
        let (warmer, raise, way) = if up { ("warmer", "raise", "up") } else { ("cooler", "lower", "down") };
        let said = [
            format!("make it {number} {degrees} {warmer} {place}"),
            format!("make the {room} {number} {degrees} {warmer}"),
            format!("{raise} the heating {place} by {number} {degrees}"),
            format!("turn {way} the heat {place} by {number}"),
            format!("{number} {degrees} {warmer} {place}"),
        ];
        (self.of(&said), format!("heat.{way}({here},{n})"))
    }

    fn thermostat(&mut self, room: &str, here: &str, place: &str) -> (String, String) {
        let n = self.range(15, 27);
        let number = self.number(n);
        let said = [
            format!("set the {room} to {number} degrees"),
            format!("heat the {room} to {number} degrees"),
            format!("keep it at {number} degrees {place}"),
            format!("i want {number} degrees {place}"),
            format!("set the thermostat {place} to {number}"),
        ];
        (self.of(&said), format!("heat.set({here},{n})"))
    }

    fn timer(&mut self) -> (String, String) {
        const COUNTS: [u32; 19] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 15, 20, 25, 30, 40, 45, 50];
        let unit = self.of(&["second", "minute", "minute", "hour"]);
        let n = if unit == "hour" { self.range(1, 13) } else { self.of(&COUNTS) };
        let (number, plural) = (self.number(n), if n == 1 { "" } else { "s" });
        let label = self.chance(0.5).then(|| self.of(&LABELS));
        let said = [
            format!("set a timer for {number} {unit}{plural}"),
            format!("start a {number} {unit} timer"),
            format!("timer for {number} {unit}{plural}"),
            format!("count down {number} {unit}{plural}"),
            format!("remind me in {number} {unit}{plural}"),
        ];
        let (mut text, mut call) = (self.of(&said), format!("timer.set({n}{}", &unit[..1]));
        if let Some(label) = label {
            text += &self.of(&[format!(" for the {label}"), format!(" called {label}"), format!(" named {label}")]);
            call += &format!(",{label}");
        }
        (text, call + ")")
    }

    fn alarm(&mut self) -> (String, String) {
        let (time, mut call) = self.clock();
        let day = self.chance(0.6).then(|| self.of(&DAYS));
        let said = [
            format!("wake me at {time}"),
            format!("set an alarm for {time}"),
            format!("wake me up at {time}"),
            format!("alarm at {time}"),
            format!("i need to get up at {time}"),
        ];
        let mut text = self.of(&said);
        if let Some(day) = day {
            let when = if matches!(day, "today" | "tomorrow") { day.to_owned() } else { format!("on {day}") };
            text = if self.chance(0.75) { format!("{text} {when}") } else { format!("{when} {text}") };
            call += &format!(",{day}");
        }
        (text, format!("alarm.set({call})"))
    }

    fn sensor(&mut self, here: &str, place: &str) -> (String, String) {
        let (what, said): (&str, &[&str]) = self.of(&[
            (
                "temperature",
                &[
                    "how warm is it",
                    "what is the temperature",
                    "tell me the temperature",
                    "how hot is it",
                    "how cold is it",
                ] as &[&str],
            ),
            ("humidity", &["how humid is it", "what is the humidity", "tell me the humidity"]),
            ("air", &["how is the air", "check the air quality", "is the air okay"]),
        ]);
        (format!("{} {place}", self.of(said)), format!("sensor.read({here},{what})"))
    }

    fn opener(&mut self, room: &str, here: &str, place: &str) -> (String, String) {
        let thing = self.of(&["window", "blind", "door", "lock"]);
        if thing == "lock" {
            let state = self.of(&["lock", "unlock"]);
            let said = [
                format!("{state} the {room}"),
                format!("{state} the {room} door"),
                format!("{state} the door {place}"),
            ];
            return (self.of(&said), format!("door.{state}({here})"));
        }
        let noun = match thing {
            "window" => self.of(&["window", "windows"]),
            "blind" => self.of(&["blinds", "blind", "shades", "curtains"]),
            _ => "door",
        };
        let state = self.of(&["open", "close"]);
        let verb = match (state, thing) {
            ("open", "blind") => self.of(&["open", "raise"]),
            ("open", _) => "open",
            (_, "blind") => self.of(&["close", "lower"]),
            _ => self.of(&["close", "shut"]),
        };
        let said = [format!("{verb} the {room} {noun}"), format!("{verb} the {noun} {place}")];
        (self.of(&said), format!("{thing}.{state}({here})"))
    }

    fn fan(&mut self, room: &str, here: &str, place: &str) -> (String, String) {
        let level = self.of(&["low", "medium", "high", "off"]);
        let last =
            if level == "off" { format!("stop the {room} fan") } else { format!("put the {room} fan on {level}") };
        let said = [
            format!("set the {room} fan to {level}"),
            format!("fan {level} {place}"),
            format!("turn the fan {place} to {level}"),
            last,
        ];
        (self.of(&said), format!("fan.set({here},{level})"))
    }

    fn music(&mut self, here: &str, place: &str) -> (String, String) {
        let (state, said): (&str, &[&str]) = self.of(&[
            ("play", &["play music", "play some music", "start the music"] as &[&str]),
            ("pause", &["pause the music", "hold the music"]),
            ("next", &["next song", "skip this song", "play the next song"]),
            ("stop", &["stop the music", "turn off the music", "no more music"]),
        ]);
        (format!("{} {place}", self.of(said)), format!("music.{state}({here})"))
    }

    fn volume(&mut self, room: &str, here: &str, place: &str) -> (String, String) {
        let n = self.of(&[5, 10, 15, 20, 25, 30, 40, 50, 60, 70, 80, 90, 100]);
        let number = self.number(n);
        let said = [
            format!("set the volume {place} to {number}"),
            format!("volume {number} {place}"),
            format!("turn the {room} speaker to {number} percent"),
        ];
        (self.of(&said), format!("volume.set({here},{n})"))
    }

    fn scene(&mut self) -> (String, String) {
        let name = self.of(&SCENES);
        let said = [
            format!("start {name} mode"),
            format!("{name} mode"),
            format!("switch to {name} mode"),
            format!("activate the {name} scene"),
            format!("time for {name}"),
        ];
        (self.of(&said), format!("scene.start({name})"))
    }

    fn cancel(&mut self) -> (String, String) {
        let what = self.of(&["timer", "alarm"]);
        let label = self.chance(0.5).then(|| if what == "timer" { self.of(&LABELS) } else { self.of(&DAYS) });
        let verb = self.of(&["cancel", "delete", "stop", "remove"]);
        match label {
            None => (format!("{verb} the {what}"), format!("{what}.cancel()")),
            Some(label) => {
                let said = [format!("{verb} the {label} {what}"), format!("{verb} the {what} for {label}")];
                (self.of(&said), format!("{what}.cancel({label})"))
            }
        }
    }

    /// Drops, doubles or swaps one letter, as a hurried thumb would.
    fn typo(&mut self, text: &str) -> String {
        let i = self.range(1, text.len() as u32 - 1) as usize;
        let (before, letter, next, after) = (&text[..i], &text[i..i + 1], &text[i + 1..i + 2], &text[i + 2..]);
        match self.below(3) {
            0 => format!("{before}{next}{after}"),
            1 => format!("{before}{letter}{letter}{next}{after}"),
            _ => format!("{before}{next}{letter}{after}"),
        }
    }

    /// A request as it is said, and its call.
    fn example(&mut self) -> (String, String) {
        let (mut text, mut call) = self.request();
        if self.chance(0.18) {
            let (other, second) = self.request();
            text = format!("{text} {} {other}", self.of(&["and", "and then", "then", "and also"]));
            call = format!("{call};{second}");
        }
        text = format!("{}{text}{}", self.of(&BEFORE), self.of(&AFTER));
        if self.chance(0.15) && !text.contains(|c: char| c.is_ascii_digit()) {
            text = self.typo(&text);
        }
        if self.chance(0.3) {
            text = text[..1].to_uppercase() + &text[1..];
        }
        if self.chance(0.2) {
            text += self.of(&[".", "!", "?"]);
        }
        (text, call)
    }
}

fn main() -> std::io::Result<()> {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<u64>());
    let (count, seed) = match (arguments.next(), arguments.next(), arguments.next()) {
        (None, ..) => (200_000, 2026),
        (Some(Ok(count)), None, _) => (count, 2026),
        (Some(Ok(count)), Some(Ok(seed)), None) => (count, seed),
        _ => return Err(std::io::Error::other("expected a number of examples and a seed, or neither")),
    };
    let held_out: HashSet<&str> = HELD_OUT.lines().filter_map(|line| Some(line.split_once('\t')?.0)).collect();
    let mut draw = Draw(SplitMix64(seed));
    let mut out = BufWriter::new(std::io::stdout().lock());
    let mut written = 0;
    while written < count {
        let (text, call) = draw.example();
        if !held_out.contains(text.as_str()) {
            writeln!(out, "{text}\t{call}")?;
            written += 1;
        }
    }
    out.flush()
}

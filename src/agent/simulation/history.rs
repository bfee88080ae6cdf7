//! Histories: what happens to the node, made from a seed. Each prints as one word, so that a shortened one can be replayed.

use std::fmt;
use std::str::FromStr;

use super::node::{Directory, FOREIGN, GATEWAYS, HARMFUL, LINKS, PROTECTED, SETS, WITH_SELECTOR};
use super::table::Fault;

/// For ever, or until the end of the history, when everything works again.
pub(super) const FOR_EVER: u32 = u32::MAX;

/// Something that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Milliseconds pass.
    Wait(u32),
    /// The directory holds something else.
    Edit(Directory),
    /// The node has these labels.
    Labels(u8),
    /// A link goes down, for so many milliseconds.
    Link(u8, u32),
    /// A link loses its carrier, for so many milliseconds.
    Carrier(u8, u32),
    /// An address of a link goes, for so many milliseconds.
    Address(u8, u8, u32),
    /// A route of somebody else comes or goes.
    Foreign(u8, bool),
    /// Somebody removes one of our routes.
    Vanish(u8),
    /// Somebody removes one of our nexthop objects, and with it what goes through it.
    VanishObject(u8),
    /// A gateway does not answer, for so many milliseconds.
    Gateway(u8, u32),
    /// The API server is away, for so many milliseconds.
    Api(u32),
    /// The API server takes so many milliseconds for each answer from now on.
    Slow(u32),
    /// The kernel has no memory for another route, for so many milliseconds.
    Full(u32),
    /// The next call fails.
    Fault(Fault),
    /// `kill -9`.
    Kill,
    /// The agent starts.
    Start,
    /// The agent ends because it is uninstalled.
    Uninstall,
}

impl Action {
    /// What kind it is, for counting.
    pub(super) const KINDS: [&'static str; 17] = [
        "wait",
        "edit",
        "labels",
        "link",
        "carrier",
        "address",
        "foreign",
        "vanish",
        "object",
        "gateway",
        "api",
        "fault",
        "kill",
        "start",
        "full",
        "uninstall",
        "slow",
    ];

    /// Smaller ones of its kind, to shorten a history that breaks a rule.
    pub(super) fn smaller(self) -> Vec<Self> {
        match self {
            Self::Edit(Directory::Sets(sets)) => (0..u16::BITS)
                .filter(|bit| sets & (1 << bit) != 0)
                .map(|bit| Self::Edit(Directory::Sets(sets & !(1 << bit))))
                .collect(),
            Self::Labels(labels) => (0..labels).map(Self::Labels).collect(),
            _ => Vec::new(),
        }
    }

    pub(super) const fn kind(self) -> usize {
        match self {
            Self::Wait(_) => 0,
            Self::Edit(_) => 1,
            Self::Labels(_) => 2,
            Self::Link(..) => 3,
            Self::Carrier(..) => 4,
            Self::Address(..) => 5,
            Self::Foreign(..) => 6,
            Self::Vanish(_) => 7,
            Self::VanishObject(_) => 8,
            Self::Gateway(..) => 9,
            Self::Api(_) => 10,
            Self::Fault(_) => 11,
            Self::Kill => 12,
            Self::Start => 13,
            Self::Full(_) => 14,
            Self::Uninstall => 15,
            Self::Slow(_) => 16,
        }
    }
}

/// `SplitMix64`: small, and the same everywhere.
pub(super) struct Random(pub(super) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, most: usize) -> u8 {
        u8::try_from(self.next() % most as u64).unwrap_or(0)
    }

    fn flag(&mut self) -> bool {
        self.next().is_multiple_of(2)
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[usize::from(self.below(all.len()))]
    }

    /// One to `most` of them, some perhaps twice.
    fn some_of<T: Copy>(&mut self, all: &[T], most: usize) -> Vec<T> {
        (0..=self.below(most)).map(|_| self.one_of(all)).collect()
    }
}

/// How often each of [`Action::KINDS`] happens where a history draws nothing else.
const WEIGHTS: [u8; Action::KINDS.len()] = [11, 6, 3, 2, 2, 1, 2, 1, 1, 3, 3, 6, 2, 5, 1, 1, 1];
/// Those that every history has: time passes, and something is to be decided.
const ALWAYS: [&str; 3] = ["wait", "edit", "start"];
/// How long what goes is away.
const TIMES: [u32; 6] = [30, 700, 3_000, 15_000, 60_000, FOR_EVER];
/// How long the API server is away.
const AWAY: [u32; 6] = [100, 1_000, 2_500, 8_000, 30_000, 90_000];
/// Kinds of faults.
const FAULTS: u8 = 12;

/// What a history is made of. Most draw a few kinds of events, of faults and of sets, so that these happen often together (swarm testing);
/// one in four has all of them.
struct Mix {
    weights: [u8; Action::KINDS.len()],
    sets: Vec<u8>,
    faults: Vec<u8>,
    times: Vec<u32>,
}

impl Mix {
    fn of_all() -> Self {
        Self {
            weights: WEIGHTS,
            sets: (0..).take(SETS.len()).collect(),
            faults: (0..FAULTS).collect(),
            times: TIMES.to_vec(),
        }
    }

    fn new(random: &mut Random) -> Self {
        if random.below(4) == 0 {
            return Self::of_all();
        }
        let mut mix = Self::of_all();
        for (weight, kind) in mix.weights.iter_mut().zip(Action::KINDS) {
            if !ALWAYS.contains(&kind) {
                *weight *= random.one_of(&[0, 0, 1, 4]);
            }
        }
        mix.sets = random.some_of(&mix.sets, 3);
        mix.sets.push(random.one_of(&HARMFUL));
        mix.sets.extend(random.some_of(&WITH_SELECTOR, 2));
        mix.faults = random.some_of(&mix.faults, 3);
        mix.times = random.some_of(&mix.times, 3);
        mix
    }

    fn kind(&self, random: &mut Random) -> &'static str {
        let all: u64 = self.weights.iter().map(|weight| u64::from(*weight)).sum();
        let mut at: u64 = random.next() % all;
        for (kind, weight) in Action::KINDS.iter().zip(self.weights) {
            match at.checked_sub(weight.into()) {
                Some(rest) => at = rest,
                None => return kind,
            }
        }
        "wait"
    }
}

/// The history of a seed. It begins with a configuration and a start, most often with the API server there.
pub(super) fn history(seed: u64) -> Vec<Action> {
    let mut random = Random(seed);
    let mix = Mix::new(&mut random);
    let mut actions = Vec::new();
    if random.below(6) == 0 {
        actions.push(Action::Api(random.one_of(&[1_000, 10_000, 60_000])));
    }
    if random.flag() {
        actions.push(Action::Labels(random.below(4)));
    }
    let mut before = directory(&mut random, &mix);
    actions.extend([Action::Edit(before), Action::Start]);
    // A few configurations, so that one comes back.
    let pool = [
        directory(&mut random, &mix),
        directory(&mut random, &mix),
        directory(&mut random, &mix),
    ];
    for _ in 0..=random.below(15) {
        let action = action(&mut random, &mix, &pool);
        match action {
            // Often while the API server is away; and mostly it is started again at once.
            Action::Kill => {
                if random.below(4) == 0 {
                    actions.push(Action::Api(random.one_of(&AWAY)));
                }
                actions.push(action);
                if random.flag() {
                    actions.push(Action::Start);
                }
            }
            // Often it is taken back by hand soon, also because the API server is silent.
            Action::Edit(_) if random.below(4) == 0 => {
                let soon = Action::Wait(random.one_of(&[50, 1_000, 8_000]));
                actions.extend([action, soon]);
                if random.flag() {
                    actions.push(Action::Api(random.one_of(&AWAY[3..])));
                }
                actions.push(Action::Edit(before));
            }
            Action::Edit(new) => {
                before = new;
                actions.push(action);
            }
            _ => actions.push(action),
        }
    }
    actions
}

fn directory(random: &mut Random, mix: &Mix) -> Directory {
    match random.below(12) {
        0 => Directory::Typo,
        1 if random.flag() => Directory::Absent,
        1 => Directory::Unreadable,
        2 => Directory::Sets(0),
        _ => {
            let mut sets = 0;
            for _ in 0..=random.below(4) {
                sets |= 1 << random.one_of(&mix.sets);
            }
            if random.below(4) == 0 {
                sets |= PROTECTED;
            }
            Directory::Sets(sets)
        }
    }
}

fn action(random: &mut Random, mix: &Mix, pool: &[Directory]) -> Action {
    match mix.kind(random) {
        "edit" => Action::Edit(random.one_of(pool)),
        "labels" => Action::Labels(random.below(4)),
        "link" => Action::Link(random.below(LINKS.len()), random.one_of(&mix.times)),
        "carrier" => Action::Carrier(random.below(LINKS.len()), random.one_of(&mix.times)),
        "address" => {
            let link = random.below(LINKS.len());
            let address = random.below(LINKS[usize::from(link)].1.len());
            Action::Address(link, address, random.one_of(&mix.times))
        }
        "foreign" => Action::Foreign(random.below(FOREIGN.len()), random.flag()),
        "vanish" => Action::Vanish(random.below(20)),
        "object" => Action::VanishObject(random.below(20)),
        "gateway" => Action::Gateway(random.below(GATEWAYS.len()), random.one_of(&mix.times)),
        "api" => Action::Api(random.one_of(&AWAY)),
        "fault" => Action::Fault(fault(random, mix)),
        "kill" => Action::Kill,
        "start" => Action::Start,
        "full" => Action::Full(random.one_of(&[700, 3_000, 15_000])),
        "uninstall" => Action::Uninstall,
        "slow" => Action::Slow(random.one_of(&[10, 200, 800])),
        _ => {
            Action::Wait(random.one_of(&[5, 50, 200, 1_000, 3_000, 8_000, 15_000, 21_000, 45_000]))
        }
    }
}

fn fault(random: &mut Random, mix: &Mix) -> Fault {
    let line = random.below(16);
    match random.one_of(&mix.faults) {
        0 => Fault::ReadFails,
        1 => Fault::ReadHangs,
        2 => Fault::Churn(2 + line % 3),
        3 => Fault::KilledReading,
        4 => Fault::WriteFails,
        5 => Fault::Dies(line),
        6 => Fault::Hangs(line),
        7 => Fault::Refuses(line),
        8 => Fault::Killed(line),
        9 => Fault::Orphaned,
        10 => Fault::KilledAsking,
        _ => Fault::Flaps(random.below(LINKS.len()), line),
    }
}

// --- as text ---

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Wait(ms) => write!(f, "wait:{ms}"),
            Self::Edit(Directory::Sets(sets)) => write!(f, "edit:{sets}"),
            Self::Edit(Directory::Typo) => f.write_str("edit:typo"),
            Self::Edit(Directory::Absent) => f.write_str("edit:absent"),
            Self::Edit(Directory::Unreadable) => f.write_str("edit:unreadable"),
            Self::Labels(labels) => write!(f, "labels:{labels}"),
            Self::Link(n, ms) => write!(f, "link:{n}:{ms}"),
            Self::Carrier(n, ms) => write!(f, "carrier:{n}:{ms}"),
            Self::Address(n, a, ms) => write!(f, "address:{n}:{a}:{ms}"),
            Self::Foreign(n, there) => write!(f, "foreign:{n}:{}", u8::from(there)),
            Self::Vanish(n) => write!(f, "vanish:{n}"),
            Self::VanishObject(n) => write!(f, "object:{n}"),
            Self::Gateway(n, ms) => write!(f, "gateway:{n}:{ms}"),
            Self::Api(ms) => write!(f, "api:{ms}"),
            Self::Slow(ms) => write!(f, "slow:{ms}"),
            Self::Full(ms) => write!(f, "full:{ms}"),
            Self::Fault(fault) => match fault {
                Fault::ReadFails => f.write_str("read-fails"),
                Fault::ReadHangs => f.write_str("read-hangs"),
                Fault::Churn(n) => write!(f, "churn:{n}"),
                Fault::KilledReading => f.write_str("killed-reading"),
                Fault::WriteFails => f.write_str("write-fails"),
                Fault::Dies(n) => write!(f, "dies:{n}"),
                Fault::Hangs(n) => write!(f, "hangs:{n}"),
                Fault::Refuses(n) => write!(f, "refuses:{n}"),
                Fault::Killed(n) => write!(f, "killed:{n}"),
                Fault::Orphaned => f.write_str("orphaned"),
                Fault::KilledAsking => f.write_str("killed-asking"),
                Fault::Flaps(link, n) => write!(f, "flaps:{link}:{n}"),
            },
            Self::Kill => f.write_str("kill"),
            Self::Start => f.write_str("start"),
            Self::Uninstall => f.write_str("uninstall"),
        }
    }
}

impl FromStr for Action {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split(':');
        let name = parts.next().unwrap_or_default();
        let rest: Vec<&str> = parts.collect();
        let number = |n: usize| -> Result<u32, String> {
            let word = rest.get(n).ok_or(format!("{text}: a number is missing"))?;
            word.parse().map_err(|error| format!("{text}: {error}"))
        };
        let small = |n: usize| -> Result<u8, String> {
            u8::try_from(number(n)?).map_err(|error| format!("{text}: {error}"))
        };
        Ok(match name {
            "wait" => Self::Wait(number(0)?),
            "edit" => Self::Edit(match rest.first().copied() {
                Some("typo") => Directory::Typo,
                Some("absent") => Directory::Absent,
                Some("unreadable") => Directory::Unreadable,
                _ => Directory::Sets(
                    u16::try_from(number(0)?).map_err(|error| format!("{text}: {error}"))?,
                ),
            }),
            "labels" => Self::Labels(small(0)?),
            "link" => Self::Link(small(0)?, number(1)?),
            "carrier" => Self::Carrier(small(0)?, number(1)?),
            "address" => Self::Address(small(0)?, small(1)?, number(2)?),
            "foreign" => Self::Foreign(small(0)?, number(1)? == 1),
            "vanish" => Self::Vanish(small(0)?),
            "object" => Self::VanishObject(small(0)?),
            "gateway" => Self::Gateway(small(0)?, number(1)?),
            "api" => Self::Api(number(0)?),
            "slow" => Self::Slow(number(0)?),
            "full" => Self::Full(number(0)?),
            "read-fails" => Self::Fault(Fault::ReadFails),
            "read-hangs" => Self::Fault(Fault::ReadHangs),
            "churn" => Self::Fault(Fault::Churn(small(0)?)),
            "killed-reading" => Self::Fault(Fault::KilledReading),
            "write-fails" => Self::Fault(Fault::WriteFails),
            "dies" => Self::Fault(Fault::Dies(small(0)?)),
            "hangs" => Self::Fault(Fault::Hangs(small(0)?)),
            "refuses" => Self::Fault(Fault::Refuses(small(0)?)),
            "killed" => Self::Fault(Fault::Killed(small(0)?)),
            "orphaned" => Self::Fault(Fault::Orphaned),
            "killed-asking" => Self::Fault(Fault::KilledAsking),
            "flaps" => Self::Fault(Fault::Flaps(small(0)?, small(1)?)),
            "kill" => Self::Kill,
            "start" => Self::Start,
            "uninstall" => Self::Uninstall,
            _ => return Err(format!("{text}: no such event")),
        })
    }
}

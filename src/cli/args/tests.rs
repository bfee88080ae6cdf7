//! The command line is consistent, its help fits a terminal, and its defaults are those of the contract.

use std::net::SocketAddr;

use clap::CommandFactory as _;

use super::values::duration_or_zero;
use super::*;

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn help_fits_a_terminal_of_80_columns() {
    let mut cli = Cli::command().term_width(80);
    cli.build();
    let mut all = vec![cli.clone()];
    all.extend(cli.get_subcommands().cloned());
    for mut command in all {
        let name = command.get_name().to_owned();
        for help in [
            command.clone().term_width(80).render_help(),
            command.clone().term_width(80).render_long_help(),
        ] {
            for line in help.to_string().lines() {
                assert!(line.chars().count() <= 80, "{name}: {line}");
            }
        }
        let _ = &mut command;
    }
}

#[test]
fn defaults_are_those_of_the_contract() {
    let cli = Cli::parse_from(["egress-routes", "run"]);
    let Command::Run(run) = cli.command else {
        panic!("not run")
    };
    assert_eq!(
        run.node.kernel.ownership(),
        Ownership {
            protocol: 230,
            metric: 4242,
            table: 254
        }
    );
    assert_eq!(
        run.listen,
        Listen::At(SocketAddr::from(([127, 0, 0, 1], 9465)))
    );
    assert!(!run.listen_global);
    assert_eq!(
        (run.resync, run.confirm),
        (Duration::from_secs(30), Duration::from_secs(20))
    );
    assert_eq!((run.on_exit, run.startup_taint), (OnExit::Auto, None));
}

#[test]
fn what_would_take_foreign_routes_for_ours_is_refused() {
    for arguments in [
        ["--protocol", "2"],
        ["--protocol", "4"],
        ["--table", "255"],
        ["--metric", "0"],
        ["--metric", "4294967294"],
        ["--resync", "1"],
    ] {
        assert!(
            Cli::try_parse_from(["egress-routes", "run"].iter().chain(&arguments)).is_err(),
            "{arguments:?}"
        );
    }
    assert!(Cli::try_parse_from(["egress-routes", "run", "--confirm", "0"]).is_ok());
}

#[test]
fn durations_are_written_as_in_kubernetes() {
    assert_eq!(duration_or_zero("500ms"), Ok(Duration::from_millis(500)));
    assert_eq!(duration_or_zero("2m"), Ok(Duration::from_mins(2)));
    assert_eq!(duration_or_zero("1h30m"), Ok(Duration::from_mins(90)));
    for text in ["", "2", "m", "2 m", "2d", "-1s", "4000000000000h"] {
        assert!(duration_or_zero(text).is_err(), "{text}");
    }
}

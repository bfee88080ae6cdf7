//! Arguments in, exit status out; everything else is in the library.

use std::process::ExitCode;

use clap::Parser as _;
use egress_routes::agent;
use egress_routes::cli;
use egress_routes::cli::args::{Cli, Command};
use egress_routes::cli::logs;

fn main() -> ExitCode {
    let cli = Cli::parse();
    logs::start(&cli.log_level, cli.log_format);
    // One thread: the agent waits, and every further thread would cost memory on every node.
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            logs::complain(&anyhow::Error::from(error).context("starting"));
            return ExitCode::from(2);
        }
    };
    match runtime.block_on(run(cli.command)) {
        Ok(status) => ExitCode::from(status),
        // As a program that SIGPIPE ends.
        Err(error) if logs::is_broken_pipe(&error) => ExitCode::from(141),
        Err(error) => {
            logs::complain(&error);
            ExitCode::from(2)
        }
    }
}

async fn run(command: Command) -> anyhow::Result<u8> {
    match command {
        Command::Run(args) => agent::run(args).await.map(|()| 0),
        Command::Check(args) => cli::check::command(&args),
        Command::Diff(args) => cli::node::diff_command(args).await,
        Command::Apply(args) => cli::node::apply(args).await,
        Command::Explain(args) => cli::explain::command(args).await,
        Command::Status {
            probe: Some(probe), ..
        } => cli::node::probe(probe).await,
        Command::Status { node, output, .. } => cli::status::command(node, output).await,
        Command::Nodes(args) => cli::nodes::command(&args).await,
        Command::Sync(args) => cli::sync::command(&args).await,
        Command::Convert { path } => cli::convert::command(path.as_deref()),
        Command::Completion { shell } => cli::completion::completion(shell),
        Command::Man => cli::completion::man(),
        Command::Version => cli::completion::version(),
        Command::Cleanup(args) => cli::node::cleanup(args).await,
        Command::Edit(args) => cli::edit::command(&args).await,
        Command::Drain(args) => cli::drain::command(&args, true).await,
        Command::Undrain(args) => cli::drain::command(&args, false).await,
    }
}

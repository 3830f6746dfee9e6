//! `farthing completions` and `farthing man`: made from the command line's own declaration.

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, Command};
use clap_complete::Shell;

use crate::cli::print;
use crate::diagnostic::{Error, Result};
use crate::files::cannot_write;

const COMPLETIONS: &str = "\
Examples:
  farthing completions bash > ~/.local/share/bash-completion/completions/farthing
  farthing completions zsh > ~/.zfunc/_farthing
  farthing completions fish > ~/.config/fish/completions/farthing.fish";

/// Arguments of `farthing completions`.
#[derive(Args, Clone, Debug)]
#[command(after_help = COMPLETIONS)]
pub struct CompletionsArguments {
    /// For which shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Arguments of `farthing man`.
#[derive(Args, Clone, Debug)]
pub struct ManArguments {
    /// Write a page for each command into this folder [default: the main page, on standard output]
    folder: Option<PathBuf>,
}

/// Writes a completion script on standard output.
pub fn completions(arguments: &CompletionsArguments, mut command: Command) -> Result<u8> {
    let (mut script, name) = (Vec::new(), command.get_name().to_owned());
    clap_complete::generate(arguments.shell, &mut command, name, &mut script);
    print(&String::from_utf8_lossy(&script))?;
    Ok(0)
}

/// Writes man pages.
pub fn man(arguments: &ManArguments, command: Command) -> Result<u8> {
    let Some(folder) = &arguments.folder else {
        print(&page(command, "farthing")?)?;
        return Ok(0);
    };
    std::fs::create_dir_all(folder).map_err(|error| cannot_write(folder, &error))?;
    let mut pages = Vec::new();
    gather(command, "farthing".to_owned(), &mut pages)?;
    let mut names = String::new();
    for (name, page) in pages {
        let path = folder.join(format!("{name}.1"));
        let made = std::fs::File::create(&path).and_then(|mut file| file.write_all(page.as_bytes()));
        made.map_err(|error| cannot_write(&path, &error))?;
        names += &format!("{}\n", path.display());
    }
    print(&names)?;
    Ok(0)
}

/// The pages of a command and of all below it, each under its full name.
fn gather(command: Command, name: String, pages: &mut Vec<(String, String)>) -> Result<()> {
    for below in command.get_subcommands().filter(|below| !below.is_hide_set() && below.get_name() != "help") {
        gather(below.clone(), format!("{name}-{}", below.get_name()), pages)?;
    }
    pages.push((name.clone(), page(command, &name)?));
    Ok(())
}

fn page(command: Command, name: &str) -> Result<String> {
    let spoken = name.replace('-', " ");
    let command = command.name(name.to_owned()).bin_name(spoken).disable_help_subcommand(true);
    let mut page = Vec::new();
    let made = clap_mangen::Man::new(command).render(&mut page);
    made.map_err(|error| Error::internal(format!("a man page cannot be made: {error}")))?;
    Ok(String::from_utf8_lossy(&page).into_owned())
}

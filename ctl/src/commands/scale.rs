//! `ctl scale TYPE NAME --replicas N`.

use crate::{cli::Session, client::Patch, error::CtlError, output::print, resource};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// TYPE NAME… or TYPE/NAME…
    #[arg(required = true)]
    what: Vec<String>,
    #[arg(long, value_name = "N")]
    replicas: u32,
}

pub fn run(args: &Args, session: &Session) -> Result<(), CtlError> {
    for target in resource::targets(&args.what)? {
        let Some(name) = &target.name else {
            return Err(CtlError::Usage(format!("name the {} to scale", target.resource.singular)));
        };
        if !target.resource.scale {
            return Err(CtlError::Usage(format!("{} cannot be scaled", target.resource.plural)));
        }
        let path = format!("{}/scale", resource::object(target.resource, &session.namespace, name));
        session.client.patch(
            &path,
            Patch::Merge,
            &serde_json::json!({ "spec": { "replicas": args.replicas } }),
        )?;
        print(&format!("{} scaled\n", resource::label(target.resource, name)))?;
    }
    Ok(())
}

"""Why a request has no plan, and the changes after which it has one."""

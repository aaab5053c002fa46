"""Why a request has no plan, and the changes that would give it one."""

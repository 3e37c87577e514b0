"""The SSH plane: connections, host keys, the agent's installation, its channel. Only here is asyncssh known."""

"""The fleet as a whole: from an inventory to ports and addresses, and from playbooks to what really runs."""

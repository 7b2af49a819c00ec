"""What can be known of manifests without a cluster; a check yields a line for each thing that is wrong."""

"""Dynamo's hierarchy: namespaces, components, endpoints, clients."""

"""The Kubeflow side: wrappers, the graph, and how it is compiled or run. The only folder that imports kfp."""

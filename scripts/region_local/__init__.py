"""A deployed region, played on this machine: `python -m scripts.region_local`.

moto stands for AWS, and real Terraform deploys the synthesized stack there. What moto only keeps
records of is done here: instances are processes, load balancers forward connections, alarms are
evaluated and scaling policies followed, lifecycle hooks wait, spot instances are taken back.
"""

"""CLIP inspection: does a prompt-tuned CLIP hide a backdoor?"""

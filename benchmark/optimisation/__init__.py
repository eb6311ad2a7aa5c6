"""What several defences share: images with the merged model's word on them, mined prompts, SAM."""

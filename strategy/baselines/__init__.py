"""What EMS-FL is compared with, over the same Grid, on the same model, data, sky and devices."""

"""Which model classes of the engine hand out the states between their layers, as a table.

Read off vLLM 0.32's registry and classes (``model_executor/models/registry.py``; a class does if it inherits
``SupportsEagle3``).  A table, because asking the engine takes a minute of imports and the engine itself,
and this question is asked before either is there.  A test holds it against the installed engine.
"""

from __future__ import annotations

from typing import NamedTuple

YES, NO = "yes", "no"


class Support(NamedTuple):
    """``how``: YES or NO; ``hybrid``: some layers are no attention."""

    how: str
    hybrid: bool

    @property
    def says(self) -> str:
        if self.how == YES:
            return "vLLM 0.32 hands out its states"
        return (
            "vLLM 0.32's class does not hand out its states; --model-impl transformers may, nobody tried here"
        )


#: Architectures whose class hands them out.
HAND_OUT = (
    "AfmoeForCausalLM", "ApertusForCausalLM", "ArceeForCausalLM", "Cohere2MoeForCausalLM",
    "CohereCompassForConditionalGeneration", "Cosmos3ForConditionalGeneration", "CwmForCausalLM",
    "DeepseekForCausalLM", "DeepseekV2ForCausalLM", "DeepseekV32ForCausalLM", "DeepseekV3ForCausalLM",
    "DeepseekV41ForCausalLM", "DeepseekV4ForCausalLM", "DeepseekV4ForConditionalGeneration",
    "Emu3ForConditionalGeneration", "Ernie4_5ForCausalLM", "Exaone4_5_ForConditionalGeneration",
    "FlexOlmoForCausalLM", "GPTBigCodeForCausalLM", "GPTNeoXForCausalLM", "Gemma4ForCausalLM",
    "Gemma4ForConditionalGeneration", "Gemma4UnifiedForConditionalGeneration", "Glm5NextForCausalLM",
    "Glm5NextForConditionalGeneration", "GlmForCausalLM", "GlmMoeDsaForCausalLM", "GptOssForCausalLM",
    "GraniteForCausalLM", "GraniteSWAForCausalLM", "HunYuanDenseV1ForCausalLM", "HunYuanMoEV1ForCausalLM",
    "HunYuanVLForConditionalGeneration", "IQuestCoderForCausalLM", "InternLM3ForCausalLM",
    "InternS1ProForConditionalGeneration", "InternS2MobiusForConditionalGeneration",
    "InternS2PreviewForConditionalGeneration", "Jais2ForCausalLM", "K2HorizonForCausalLM",
    "KimiK25ForConditionalGeneration", "KimiK3ForConditionalGeneration", "KimiLinearForCausalLM",
    "LLaMAForCausalLM", "LagunaForCausalLM", "LightOnOCRForConditionalGeneration", "Llama4ForCausalLM",
    "Llama4ForConditionalGeneration", "LlamaForCausalLM", "LlavaForConditionalGeneration",
    "MellumForCausalLM", "MiMoForCausalLM", "MiMoV2FlashForCausalLM", "MiMoV2ForCausalLM",
    "MiMoV2OmniForCausalLM", "MiniCPM3ForCausalLM", "MiniCPMForCausalLM",
    "MiniCPMV4_6ForConditionalGeneration", "MiniCPMV4_7ForConditionalGeneration", "MiniMaxM2ForCausalLM",
    "MiniMaxM3SparseForCausalLM", "MiniMaxM3SparseForConditionalGeneration", "Ministral3ForCausalLM",
    "Mistral3ForConditionalGeneration", "MistralForCausalLM", "MistralLarge3ForCausalLM",
    "MuseGlimmerForCausalLM", "MuseGlimmerForConditionalGeneration", "NanbeigeForCausalLM",
    "NemotronHForCausalLM", "NemotronHPuzzleForCausalLM", "NemotronH_Nano_Omni_Reasoning_V3",
    "NemotronH_Nano_VL_V2", "NemotronH_Omni_Reasoning_V3", "NemotronH_Super_Omni_Reasoning_V3",
    "Olmo2ForCausalLM", "Olmo3ForCausalLM", "OlmoForCausalLM", "OpenCUAForConditionalGeneration",
    "Phi3ForCausalLM", "PhiForCausalLM", "PixtralForConditionalGeneration", "Plamo3ForCausalLM",
    "Qwen2ForCausalLM", "Qwen2_5_VLForConditionalGeneration", "Qwen3ASRForConditionalGeneration",
    "Qwen3ASRRealtimeGeneration", "Qwen3ForCausalLM", "Qwen3MoeForCausalLM", "Qwen3NextForCausalLM",
    "Qwen3OmniMoeForConditionalGeneration", "Qwen3VLForConditionalGeneration",
    "Qwen3VLMoeForConditionalGeneration", "Qwen3_5ForCausalLM", "Qwen3_5ForConditionalGeneration",
    "Qwen3_5MoeForCausalLM", "Qwen3_5MoeForConditionalGeneration", "Qwen4ExpForConditionalGeneration",
    "SarvamMLAForCausalLM", "SeedOssForCausalLM", "SmolLM3ForCausalLM", "Starcoder2ForCausalLM",
    "Step1ForCausalLM", "TeleChat2ForCausalLM", "TeleChat3ForCausalLM", "TeleFLMForCausalLM",
    "VaultGemmaForCausalLM", "VibeVoiceAsrForConditionalGeneration",
)  # fmt: skip

#: Architectures that vLLM knows, whose class does not.
KEEP = (
    "AXK1ForCausalLM", "AriaForConditionalGeneration", "AudioFlamingo3ForConditionalGeneration",
    "BagelForConditionalGeneration", "BailingMoeForCausalLM", "BailingMoeV2ForCausalLM",
    "BailingMoeV2_5ForCausalLM", "BailingMoeV3ForCausalLM", "BailingMoeV3VLForConditionalGeneration",
    "BeeForConditionalGeneration", "Blip2ForConditionalGeneration", "BloomForCausalLM",
    "ChatGLMForConditionalGeneration", "ChatGLMModel", "Cohere2ForCausalLM",
    "Cohere2VisionForConditionalGeneration", "CohereAsrForConditionalGeneration", "CohereForCausalLM",
    "Cosmos3EdgeForConditionalGeneration", "DbrxForCausalLM", "DeciLMForCausalLM", "DeepseekOCR2ForCausalLM",
    "DeepseekOCRForCausalLM", "DeepseekVLV2ForCausalLM", "DiffusionGemmaForBlockDiffusion",
    "Dots3NoteForCausalLM", "DotsOCRForCausalLM", "Eagle2_5_VLForConditionalGeneration",
    "Ernie4_5_MoeForCausalLM", "Ernie4_5_VLMoeForConditionalGeneration", "Exaone4ForCausalLM",
    "ExaoneForCausalLM", "ExaoneMoEForCausalLM", "ExaoneMoeForCausalLM", "FalconForCausalLM",
    "FalconH1ForCausalLM", "FalconMambaForCausalLM", "FireRedASR2ForConditionalGeneration",
    "FunASRForConditionalGeneration", "FunAudioChatForConditionalGeneration", "GLM4VForCausalLM",
    "GPT2LMHeadModel", "GPTJForCausalLM", "Gemma2ForCausalLM", "Gemma3ForCausalLM",
    "Gemma3ForConditionalGeneration", "Gemma3nForCausalLM", "Gemma3nForConditionalGeneration",
    "GemmaForCausalLM", "Glm4ForCausalLM", "Glm4MoeForCausalLM", "Glm4MoeLiteForCausalLM",
    "Glm4vForConditionalGeneration", "Glm4vMoeForConditionalGeneration", "GlmAsrForConditionalGeneration",
    "GlmOcrForConditionalGeneration", "Granite4VisionForConditionalGeneration", "GraniteMoeForCausalLM",
    "GraniteMoeHybridForCausalLM", "GraniteMoeSWAForCausalLM", "GraniteMoeSharedForCausalLM",
    "GraniteSpeechForConditionalGeneration", "GraniteSpeechPlusForConditionalGeneration", "H2OVLChatModel",
    "HCXVisionV2ForCausalLM", "HYV3ForCausalLM", "HYV4ForCausalLM", "HfMoondream", "HrmTextForCausalLM",
    "HyperCLOVAXForCausalLM", "IQuestLoopCoderForCausalLM", "Idefics3ForConditionalGeneration",
    "InklingForCausalLM", "InklingForConditionalGeneration", "InternLM2ForCausalLM",
    "InternS1ForConditionalGeneration", "InternVLChatModel", "InternVLForConditionalGeneration",
    "IsaacForConditionalGeneration", "JambaForCausalLM", "KananaVForConditionalGeneration",
    "KeyeForConditionalGeneration", "KeyeVL1_5ForConditionalGeneration", "KimiVLForConditionalGeneration",
    "Lfm2ForCausalLM", "Lfm2MoeForCausalLM", "Lfm2VlForConditionalGeneration", "Llama_Nemotron_Nano_VL",
    "LlavaNextForConditionalGeneration", "LlavaNextVideoForConditionalGeneration",
    "LlavaOnevision2ForConditionalGeneration", "LlavaOnevisionForConditionalGeneration",
    "LongcatFlashForCausalLM", "LongcatFlashNgramForCausalLM", "Mamba2ForCausalLM", "MambaForCausalLM",
    "MiDashengLMModel", "MiniCPMO", "MiniCPMV", "MixtralForCausalLM", "Molmo2ForConditionalGeneration",
    "MolmoForCausalLM", "Moondream3ForCausalLM", "MoonshotKimiaForCausalLM", "MossAudioModel",
    "MossTranscribeDiarizeForConditionalGeneration", "NVLM_D", "NemotronForCausalLM",
    "NemotronParseForConditionalGeneration", "OPTForCausalLM", "OlmoHybridForCausalLM", "OlmoeForCausalLM",
    "OpenPanguVLForConditionalGeneration", "OpenVLAForActionPrediction", "OrionForCausalLM", "Ovis",
    "Ovis2_5", "Ovis2_6ForCausalLM", "Ovis2_6_MoeForCausalLM", "PaddleOCRVLForConditionalGeneration",
    "PaliGemmaForConditionalGeneration", "PanguEmbeddedForCausalLM", "PanguProMoEV2ForCausalLM",
    "PanguUltraMoEForCausalLM", "Param2MoEForCausalLM", "Phi3VForCausalLM", "Phi4ForCausalLMV",
    "Phi4MMForCausalLM", "PhiMoEForCausalLM", "QianfanOCRForConditionalGeneration",
    "Qwen2AudioForConditionalGeneration", "Qwen2MoeForCausalLM", "Qwen2VLForConditionalGeneration",
    "Qwen2_5OmniForConditionalGeneration", "Qwen2_5OmniModel", "Qwen4ExpForCausalLM",
    "RForConditionalGeneration", "Rnj1ForCausalLM", "SarvamMoEForCausalLM", "SkyworkR1VChatModel",
    "SmolVLMForConditionalGeneration", "SolarForCausalLM", "StableLmForCausalLM", "Step3TextForCausalLM",
    "Step3VLForConditionalGeneration", "Step3p5ForCausalLM", "Step3p7ForConditionalGeneration",
    "StepVLForConditionalGeneration", "UltravoxModel", "UnlimitedOCRForCausalLM",
    "VoxtralForConditionalGeneration", "VoxtralRealtimeGeneration", "WhisperForConditionalGeneration",
    "Zamba2ForCausalLM",
)  # fmt: skip

#: Those of both with layers that are no attention (``IsHybrid``).
HYBRID = (
    "BailingMoeV2_5ForCausalLM", "BailingMoeV3ForCausalLM", "BailingMoeV3VLForConditionalGeneration",
    "FalconH1ForCausalLM", "Glm5NextForCausalLM", "Glm5NextForConditionalGeneration",
    "GraniteMoeHybridForCausalLM", "InternS2MobiusForConditionalGeneration",
    "InternS2PreviewForConditionalGeneration", "JambaForCausalLM", "KimiK3ForConditionalGeneration",
    "KimiLinearForCausalLM", "Lfm2ForCausalLM", "Lfm2MoeForCausalLM", "Lfm2VlForConditionalGeneration",
    "MiniCPMV4_6ForConditionalGeneration", "MiniCPMV4_7ForConditionalGeneration", "NemotronHForCausalLM",
    "NemotronHPuzzleForCausalLM", "NemotronH_Nano_Omni_Reasoning_V3", "NemotronH_Nano_VL_V2",
    "NemotronH_Omni_Reasoning_V3", "NemotronH_Super_Omni_Reasoning_V3", "OlmoHybridForCausalLM",
    "Qwen3NextForCausalLM", "Qwen3_5ForCausalLM", "Qwen3_5ForConditionalGeneration", "Qwen3_5MoeForCausalLM",
    "Qwen3_5MoeForConditionalGeneration", "Qwen4ExpForCausalLM", "Qwen4ExpForConditionalGeneration",
    "Zamba2ForCausalLM",
)  # fmt: skip

#: Architecture, as ``config.json`` names it -> what is known; absent: not known to vLLM 0.32.
AUX_STATES = {
    name: Support(how, name in HYBRID) for how, names in ((YES, HAND_OUT), (NO, KEEP)) for name in names
}
